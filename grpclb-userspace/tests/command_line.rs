//! The built command: what it prints where, and its exit status.

#![allow(clippy::unwrap_used)] // a test may

use std::io::{BufRead as _, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

fn grpclb(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_grpclb"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A file of the test's own, removed at its end.
struct File(PathBuf);

impl File {
    fn new(name: &str, content: &str) -> Self {
        let path = std::env::temp_dir().join(format!("grpclb-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Before anything else: half way through its start the agent, or a library, would run out of descriptors.
#[test]
fn agent_refuses_a_limit_of_open_files_that_is_too_low() {
    let config = File::new("nofile.yaml", "services: []\n");
    for limit in ["8", "16", "24", "32", "48", "64", "71"] {
        let output = Command::new("sh")
            .args([
                "-c",
                "ulimit -n $0 && exec \"$@\"",
                limit,
                env!("CARGO_BIN_EXE_grpclb"),
            ])
            .args(["agent", "--workers", "2", "--config", config.path()])
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{limit}: {said}");
        assert_eq!(said.lines().count(), 1, "{limit}: {said}");
        assert!(
            said.starts_with("grpclb: the limit of open files (RLIMIT_NOFILE) is ") && said.contains(limit),
            "{limit}: {said}"
        );
    }
}

#[test]
fn check_takes_a_valid_file_and_prints_the_mistakes_of_another_with_status_1() {
    let good = File::new("good.yaml", "pods: [{name: p, netns: host}]\n");
    let output = grpclb(&["agent", "--config", good.path(), "--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));

    let bad = File::new("bad.yaml", "pods:\n- {name: p}\n- {netns: host}\n");
    let output = grpclb(&["agent", "--config", bad.path(), "--check"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].starts_with(&format!("{}:2:3: pods[0].netns: is missing", bad.path())),
        "{said}"
    );
    assert!(
        lines[1].starts_with(&format!("{}:3:3: pods[1].name: is missing", bad.path())),
        "{said}"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn a_file_that_is_not_there_is_a_no_too() {
    let output = grpclb(&["agent", "--config", "/nowhere/a.yaml", "--check"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).starts_with("grpclb: cannot read /nowhere/a.yaml: "),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_wrong_command_line_is_status_2() {
    assert_eq!(grpclb(&[]).status.code(), Some(2));
    assert_eq!(grpclb(&["agent"]).status.code(), Some(2));
    assert_eq!(grpclb(&["status", "--admin", "nowhere"]).status.code(), Some(2));
}

#[test]
fn status_without_an_agent_is_status_3_and_asks_the_right_question() {
    // A port that was free a moment ago, and is not listened on.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let output = grpclb(&["status", "--admin", &address]);
    assert_eq!(output.status.code(), Some(3));
    let said = text(&output.stderr);
    assert!(
        said.contains(&format!("no agent answers at {address}")) && said.contains("is it running?"),
        "{said}"
    );
}

#[test]
fn a_variable_names_the_agent_unless_the_command_line_names_a_cluster() {
    let status = |arguments: &[&str], address: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grpclb"));
        let output = command
            .arg("status")
            .args(arguments)
            .env("GRPCLB_ADMIN", address)
            .output()
            .unwrap();
        (output.status.code().unwrap(), text(&output.stderr))
    };
    let (exit, said) = status(&[], "127.0.0.1:1");
    assert!(
        exit == 3 && said.contains("no agent answers at 127.0.0.1:1"),
        "{exit} {said}"
    );
    let (exit, said) = status(&["--kubeconfig", "/nowhere"], "127.0.0.1:1");
    assert!(
        exit == 4 && said.contains("the kubeconfig cannot be used"),
        "{exit} {said}"
    );
    let (exit, said) = status(&[], "nowhere");
    assert!(
        exit == 2 && said.contains("expected ADDRESS:PORT"),
        "{exit} {said}"
    );
}

#[test]
fn status_of_something_else_says_that_it_is_no_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _ = client.read(&mut request).unwrap();
        client
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
            .unwrap();
    });
    let output = grpclb(&["status", "--admin", &address]);
    server.join().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(
        text(&output.stderr).contains("does not answer like grpclb's admin port"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn cleanup_where_nothing_is_left_has_nothing_to_remove() {
    let output = grpclb(&["cleanup", "--bpffs", "/nowhere/pins", "--run-dir", "/nowhere/run"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(0), "nothing to remove\n")
    );
}

#[test]
fn cleanup_removes_the_run_files_of_the_dead_and_names_them() {
    let directory = std::env::temp_dir().join(format!("grpclb-cleanup-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("agent-1-2.lock"), "").unwrap();
    let directory = directory.to_str().unwrap();
    let output = grpclb(&["cleanup", "--bpffs", "/nowhere/pins", "--run-dir", directory]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert_eq!(
        said,
        format!("removed the run files of agent-1-2, which is dead, from {directory}\nremoved {directory}\n")
    );
    assert!(!std::path::Path::new(directory).exists());
}

#[test]
fn cleanup_removes_the_kept_state_only_where_no_agent_lives() {
    let directory = std::env::temp_dir().join(format!("grpclb-cleanup-live-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("kubernetes.snapshot"), "").unwrap();
    let lock = std::fs::File::create(directory.join("agent-1-2.lock")).unwrap();
    lock.lock().unwrap();
    let path = directory.to_str().unwrap();
    let cleanup = |more: &[&str]| {
        let words = ["cleanup", "--bpffs", "/nowhere/pins", "--run-dir", path];
        let output = grpclb(&[&words, more].concat());
        (output.status.code(), text(&output.stdout))
    };
    let both = "agent-1-2.lock, kubernetes.snapshot";
    assert_eq!(cleanup(&[]), (Some(0), format!("left alone in {path}: {both}\n")));
    assert_eq!(cleanup(&["--check"]), (Some(1), format!("in {path}: {both}\n")));
    // Not only closed: what other tests are just about to start has the file, too, until it is another program.
    lock.unlock().unwrap();
    assert_eq!(
        cleanup(&[]),
        (
            Some(0),
            format!(
                "removed the run files of agent-1-2, which is dead, from {path}\n\
                 removed {path}/kubernetes.snapshot\nremoved {path}\n"
            )
        )
    );
    assert_eq!(cleanup(&["--check"]), (Some(0), "nothing to remove\n".to_owned()));
}

#[test]
fn cleanup_that_stays_removes_what_an_agent_leaves_when_it_dies() {
    let directory = std::env::temp_dir().join(format!("grpclb-cleanup-stay-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let lock = std::fs::File::create(directory.join("agent-1-2.lock")).unwrap();
    lock.lock().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_grpclb"))
        .args(["cleanup", "--stay", "--bpffs", "/nowhere/pins", "--run-dir"])
        .arg(&directory)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || said.next().unwrap().unwrap();
    assert!(line().starts_with("left alone in "));
    drop(lock);
    assert!(line().starts_with("removed the run files of agent-1-2"));
    assert!(line().starts_with("removed /"));
    assert!(!directory.exists());
    let id = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn version_names_the_program_and_its_version() {
    let output = grpclb(&["version"]);
    assert_eq!(
        text(&output.stdout),
        concat!("grpclb ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn an_answer_that_nobody_reads_is_no_failure() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_grpclb"))
        .arg("version")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
