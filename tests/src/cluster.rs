//! A real cluster, made by `cargo xtask cluster up`: kubectl, namespaces that go when the test ends, servers and clients in
//! them. Which cluster it is, the environment's `GRPCLB_CLUSTER` says; without it, the one called `k8s`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::peers::Outcome;
use crate::process::wait_until;

/// What `cargo xtask image --test` makes, and the tier of tests loads.
pub const TEST_IMAGE: &str = "docker.io/grpclb/test:1";
/// How long pods, rollouts and deletions may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_mins(4);

/// A cluster that runs.
#[derive(Clone, Debug)]
pub struct Cluster {
    name: String,
    folder: PathBuf,
}

impl Cluster {
    /// The cluster of the tests; an error says how to make it.
    pub fn find() -> Result<Self> {
        let name = std::env::var("GRPCLB_CLUSTER").unwrap_or_else(|_| "k8s".to_owned());
        let folder = Path::new("/var/lib/grpclb-cluster").join(&name);
        if !folder.join("kubeconfig").exists() {
            bail!("there is no cluster {name}: cargo xtask cluster --name {name} up");
        }
        Ok(Self { name, folder })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The folder that `machine` (`control`, `node1`, …) has at `/run`, `/var/log` and `/var/lib`, as this host sees it.
    pub fn machine_folder(&self, machine: &str) -> PathBuf {
        self.folder.join(machine)
    }

    /// kubectl with the administrator's rights.
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.folder.join("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig()).stdin(Stdio::null());
        command
    }

    /// Runs kubectl and returns what it prints; failing is an error with all that it said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.kubectl_command().args(arguments))
    }

    /// What kubectl prints as JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let printed = run(self
            .kubectl_command()
            .arg("get")
            .args(arguments)
            .args(["--output", "json"]))?;
        serde_json::from_str(&printed).context("kubectl printed no JSON")
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<()> {
        run_with(self.kubectl_command().args(["apply", "-f", "-"]), manifests).map(drop)
    }

    /// What the API server would say to manifests; a field that it does not know is an error.
    pub fn dry_run(&self, manifests: &str) -> Result<String> {
        let arguments = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        run_with(self.kubectl_command().args(arguments), manifests)
    }

    /// Runs `cargo xtask cluster` for this cluster: `exec`, `stop`, `start` and the rest.
    pub fn xtask(&self, arguments: &[&str]) -> Result<String> {
        run(xtask()?.args(["cluster", "--name", &self.name]).args(arguments))
    }

    /// Runs a command in all namespaces of a machine.
    pub fn exec_on(&self, machine: &str, command: &[&str]) -> Result<String> {
        run(xtask()?
            .args(["cluster", "--name", &self.name, "exec", machine, "--"])
            .args(command))
    }

    /// Ends a component of a machine (`control`: `kube-apiserver`, `etcd`, …; a node: `kubelet`, `kube-proxy`, `containerd`),
    /// which stays down until the guard goes.
    pub fn stop(&self, machine: &str, component: &str) -> Result<Stopped> {
        self.xtask(&["stop", machine, component])?;
        Ok(Stopped {
            cluster: self.clone(),
            machine: machine.to_owned(),
            component: component.to_owned(),
        })
    }

    /// A new namespace, with `about` in its name; it goes when the guard does.
    pub fn namespace(&self, about: &str) -> Result<Namespace> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{about}-{}-{number}", std::process::id());
        self.kubectl(&["create", "namespace", &name])?;
        let namespace = Namespace {
            cluster: self.clone(),
            name,
        };
        // No pod is taken before it is there, and a controller makes it.
        let account = ["get", "serviceaccount", "default"];
        if !wait_until(PATIENCE, || namespace.kubectl(&account).is_ok()) {
            bail!("{} gets no service account", namespace.name);
        }
        Ok(namespace)
    }
}

/// A component that is down. Dropping this starts it again.
#[derive(Debug)]
pub struct Stopped {
    cluster: Cluster,
    machine: String,
    component: String,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if let Err(error) = self.cluster.xtask(&["start", &self.machine, &self.component]) {
            eprintln!("{error:#}");
        }
    }
}

/// The xtask that was built with the tests.
pub fn xtask() -> Result<Command> {
    let target = crate::peers::target();
    let program = target.join("debug/xtask");
    if !program.exists() {
        bail!("{} is missing: cargo build -p xtask", program.display());
    }
    let mut command = Command::new(program);
    command.env("CARGO_TARGET_DIR", target).stdin(Stdio::null());
    Ok(command)
}

/// A namespace of a test.
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    name: String,
}

impl Namespace {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run(self.command().args(arguments))
    }

    /// What kubectl prints as JSON.
    pub fn get(&self, arguments: &[&str]) -> Result<Value> {
        let mut words = vec!["--namespace", &self.name];
        words.extend(arguments);
        self.cluster.get(&words)
    }

    pub fn apply(&self, manifests: &str) -> Result<()> {
        run_with(self.command().args(["apply", "-f", "-"]), manifests).map(drop)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = self.cluster.kubectl_command();
        command.args(["--namespace", &self.name]);
        command
    }

    /// Runs a command in a pod.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        run(self.command().args(["exec", pod, "--"]).args(command))
    }

    /// Waits until `pods` (a name such as `pod/client`, or `pod` and a selector) are ready.
    pub fn wait_until_ready(&self, pods: &[&str]) -> Result<()> {
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        run(self
            .command()
            .args(["wait", "--for=condition=Ready", &timeout])
            .args(pods))
        .map(drop)
    }

    /// Waits until a pod has so many connections to servers of [`Namespace::start_servers`].
    pub fn wait_until_connected(&self, pod: &str, connections: usize) -> Result<()> {
        // The Service's port, in the pod's own tables, and the state TCP_ESTABLISHED.
        let count = "cat /proc/net/tcp /proc/net/tcp6 | grep -c ':C383 01 ' || true";
        let mut found = String::new();
        let connected = wait_until(PATIENCE, || {
            found = self.exec(pod, &["sh", "-c", count]).unwrap_or_default();
            found.trim() == connections.to_string()
        });
        if !connected {
            bail!("{pod} has {} connections, not {connections}", found.trim());
        }
        Ok(())
    }

    /// `replicas` gRPC servers over all nodes, named by their pods, behind a dual-stack Service `name` at port 50051; returns
    /// when they are ready.
    pub fn start_servers(&self, name: &str, replicas: u32) -> Result<()> {
        let manifests = include_str!("../k8s/manifests/servers.yaml")
            .replace("NAME", name)
            .replace("REPLICAS", &replicas.to_string())
            .replace("TEST_IMAGE", TEST_IMAGE);
        self.apply(&manifests)?;
        let timeout = format!("--timeout={}s", PATIENCE.as_secs());
        self.kubectl(&["rollout", "status", &format!("deployment/{name}"), &timeout])
            .map(drop)
    }

    /// A pod with a shell and a gRPC client, for [`Namespace::exec`]; on `node` if one is named.
    pub fn start_client(&self, name: &str, node: Option<&str>) -> Result<()> {
        let node = node.map_or("{}".to_owned(), |node| {
            format!("{{\"kubernetes.io/hostname\": {node}}}")
        });
        let manifests = include_str!("../k8s/manifests/client.yaml")
            .replace("NAME", name)
            .replace("NODE_SELECTOR", &node)
            .replace("TEST_IMAGE", TEST_IMAGE);
        self.apply(&manifests)?;
        self.wait_until_ready(&[&format!("pod/{name}")])
    }

    /// Kills the process that holds a pod's namespaces (`pause`): its kubelet makes it a new sandbox, with another address.
    pub fn kill_sandbox(&self, pod: &str) -> Result<()> {
        let pod = self.get(&["pod", pod])?;
        let uid = pod["metadata"]["uid"].as_str().context("its UID")?;
        let node = pod["spec"]["nodeName"].as_str().context("its node")?;
        let script = format!(
            "for process in /proc/[0-9]*; do
               grep -qs {uid} $process/cgroup && grep -qs pause $process/comm && exec kill -9 ${{process#/proc/}}
             done
             echo 'no pause process of {uid} runs' >&2
             exit 1"
        );
        self.cluster.exec_on(node, &["bash", "-c", &script]).map(drop)
    }

    /// Makes `calls` calls from a client pod, over `connections` connections at once.
    pub fn call(&self, client: &str, target: &str, calls: u32, connections: u32) -> Result<Outcome> {
        let (calls, connections) = (calls.to_string(), connections.to_string());
        let printed = self.exec(
            client,
            &[
                "/peer",
                "load",
                "--target",
                target,
                "--calls",
                &calls,
                "--connections",
                &connections,
                "--concurrency",
                &connections,
            ],
        )?;
        // Before its last line it says how far it is.
        let result = printed.lines().last().unwrap_or_default();
        serde_json::from_str(result).with_context(|| format!("the client printed {printed}"))
    }

    /// The names of the pods that match a selector, with the nodes that they are on.
    pub fn pods(&self, selector: &str) -> Result<BTreeMap<String, String>> {
        let pods = self.get(&["pods", "--selector", selector])?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"])))
            .collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Not waited for: it ends on its own, and the next test has another name.
        let _ = self
            .cluster
            .kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

fn run(command: &mut Command) -> Result<String> {
    run_with(command, "")
}

fn run_with(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // What ends without reading says itself why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{shown}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
