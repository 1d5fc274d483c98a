//! Loads in a client pod: [`PodLoad::start`] does it as people would, by `kubectl exec`. [`ClientPod`] needs no API server and
//! no kubelet: the node itself starts the peer, in the pod's namespaces and cgroup, as one more process of its container.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cluster::{Cluster, Namespace, PATIENCE, xtask};
use crate::peers::Outcome;

/// A client pod, known by what stays when the API server is away.
#[derive(Clone, Debug)]
pub struct ClientPod {
    cluster: Cluster,
    node: String,
    uid: String,
}

impl ClientPod {
    pub fn find(cluster: &Cluster, namespace: &Namespace, name: &str) -> Result<Self> {
        let pod = namespace.get(&["pod", name])?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("a pod that is placed");
        Ok(Self {
            cluster: cluster.clone(),
            node: text(&pod["spec"]["nodeName"])?,
            uid: text(&pod["metadata"]["uid"])?,
        })
    }

    /// Makes `calls` calls over one connection.
    pub fn call(&self, target: &str, calls: u32) -> Result<Outcome> {
        let plan =
            format!("--target {target} --calls {calls} --connections 1 --concurrency 1 --deadline-ms 2000");
        self.start(&plan)?.finish()
    }

    /// Calls until it is told to end, over `connections` connections, `concurrency` calls at a time. Each call has until
    /// `deadline`.
    pub fn load(
        &self,
        target: &str,
        connections: u32,
        concurrency: u32,
        deadline: Duration,
    ) -> Result<PodLoad> {
        let deadline = deadline.as_millis();
        self.start(&format!(
            "--target {target} --connections {connections} --concurrency {concurrency} --delay-ms 2 --deadline-ms {deadline}"
        ))
    }

    fn start(&self, plan: &str) -> Result<PodLoad> {
        // A process counts as the pod's by its cgroup, in each hierarchy; the namespaces are those of the container's shell.
        let script = format!(
            r#"
            for process in /proc/[0-9]*; do
                grep -qs 'pod{uid}' $process/cgroup && [ "$(cat $process/comm)" != pause ] || continue
                while IFS=: read -r _ controllers path; do
                    case "$controllers" in
                        "") for root in /sys/fs/cgroup/unified /sys/fs/cgroup; do
                                [ -e $root$path/cgroup.procs ] && echo $$ >$root$path/cgroup.procs
                            done ;;
                    esac
                done <$process/cgroup
                exec nsenter --target ${{process#/proc/}} --net --mount --uts -- /peer load {plan}
            done
            echo "no process of the pod runs" >&2
            exit 1"#,
            uid = self.uid
        );
        let mut command = xtask()?;
        command
            .args(["cluster", "--name", self.cluster.name(), "exec", &self.node, "--"])
            .args(["bash", "-c", &script]);
        PodLoad::run(command)
    }
}

/// A peer in a pod that makes calls, tells how far it is, and ends when its input does.
#[derive(Debug)]
pub struct PodLoad {
    child: Child,
    /// What it prints, read as it comes: kubectl gives up a connection to whose bytes nobody listens.
    lines: mpsc::Receiver<String>,
    /// How many calls it has told of, as far as its lines were looked at.
    made: u64,
}

impl PodLoad {
    /// Calls `target` from `client` until it is told to end, over `connections` connections, `concurrency` calls at a time.
    pub fn start(
        namespace: &Namespace,
        client: &str,
        target: &str,
        connections: u32,
        concurrency: u32,
    ) -> Result<Self> {
        let mut command = namespace.command();
        let (connections, concurrency) = (connections.to_string(), concurrency.to_string());
        command.args(["exec", "-i", client, "--", "/peer", "load"]);
        command.args(["--target", target, "--delay-ms", "2"]);
        command.args(["--connections", &connections, "--concurrency", &concurrency]);
        Self::run(command)
    }

    fn run(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {command:?}"))?;
        let output = child.stdout.take().context("its output")?;
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let all = BufReader::new(output).lines().map_while(Result::ok);
            // Ends with the output, or when nobody wants more of it.
            let _ = all.map(|line| tell.send(line)).find(Result::is_err);
        });
        Ok(Self {
            child,
            lines,
            made: 0,
        })
    }

    /// Waits until it has made so many calls.
    pub fn wait_for(&mut self, calls: u64) -> Result<()> {
        while self.made < calls {
            self.made = match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => progress(&line).unwrap_or(self.made),
                Err(RecvTimeoutError::Timeout) => bail!("no call ends any more, after {}", self.made),
                Err(RecvTimeoutError::Disconnected) => bail!("the load has ended before {calls} calls"),
            }
        }
        Ok(())
    }

    /// Waits until it has made so many calls more than it had told of by now.
    pub fn wait_for_more(&mut self, calls: u64) -> Result<()> {
        let made = self.made();
        self.wait_for(made + calls)
    }

    /// Ends the load and returns what became of its calls.
    pub fn finish(mut self) -> Result<Outcome> {
        drop(self.child.stdin.take());
        let mut result = String::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => result = line,
                Err(RecvTimeoutError::Timeout) => bail!("it was told to end and does not"),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let output = self.child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_str(&result)
            .with_context(|| format!("the load ended with {}: {result}\n{said}", output.status))
    }

    /// How many calls it has told of by now.
    fn made(&mut self) -> u64 {
        self.made = self
            .lines
            .try_iter()
            .filter_map(|line| progress(&line))
            .last()
            .unwrap_or(self.made);
        self.made
    }
}

/// What a line says of how many calls were made, if it is one that does.
fn progress(line: &str) -> Option<u64> {
    let line: Value = serde_json::from_str(line).ok()?;
    line["progress"].as_u64()
}
