//! The agents of this node: how they know of each other, and how one hands over to the next.
//!
//! Each instance has two files in the run directory (`/run/grpclb`): `<instance>.lock`, held for as long as its process
//! lives, and `<instance>.sock`, on which it can be told to hand over. What dead instances left is swept.
//!
//! The protocol is one line each way: `hand over 1 <start> <instance>\n` → `draining\n`, or `younger\n` from an instance
//! that started later than the one that asks. So of two agents that start at the same moment one remains.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::Flock;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::claim::{Refused, claim, is_held, of_the_dead};
use crate::kernel::MachineClock;

/// How long an instance has to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// No line of the protocol is longer.
const MAX_LINE: u64 = 256;

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("instance name {0:?}: use 1 to 40 letters, digits, '-' and '_'")]
    Name(String),
    #[error("an agent with the instance name {0:?} runs already: leave out --instance, or give another name")]
    Alive(String),
    #[error("run directory {}: {what}: {source}", path.display())]
    RunDir {
        path: PathBuf,
        what: &'static str,
        source: io::Error,
    },
}

/// This instance's place among the others; dropping it removes its files.
#[derive(Debug)]
pub(super) struct Instance {
    directory: PathBuf,
    name: String,
    /// Orders instances by age: nanoseconds since boot, the same in all PID, network and time namespaces.
    start: u64,
    _lock: Flock<File>,
}

/// Another instance asks for all new connections.
#[derive(Debug)]
pub(super) struct HandOver {
    pub(super) successor: String,
    /// To be told once nothing new is steered here.
    pub(super) done: oneshot::Sender<()>,
}

impl Instance {
    /// Takes this name, and sweeps what dead instances left.
    pub(super) fn claim(directory: &Path, name: &str) -> Result<Self, Error> {
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(well_formed) {
            return Err(Error::Name(name.to_owned()));
        }
        let failed = |what| {
            move |source| Error::RunDir {
                path: directory.to_owned(),
                what,
                source,
            }
        };
        // Only root may tell an agent to stop steering.
        let make_directory = || DirBuilder::new().recursive(true).mode(0o700).create(directory);
        make_directory().map_err(failed("make it"))?;
        sweep(directory);
        let path = directory.join(format!("{name}.lock"));
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        // A cleanup takes the directory away as soon as it is empty.
        let open = || {
            make_directory()?;
            options.open(&path)
        };
        let lock = claim(&path, open).map_err(|refused| match refused {
            Refused::Alive => Error::Alive(name.to_owned()),
            Refused::Io(source) => failed("make and lock the lock file")(source),
        })?;
        Ok(Self {
            directory: directory.to_owned(),
            name: name.to_owned(),
            start: MachineClock::new()
                .boottime()
                .map_err(failed("read the time since boot"))?,
            _lock: lock,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Listens for successors. Requests come on the channel; each is answered when its `done` is used.
    pub(super) fn listen(&self) -> Result<mpsc::Receiver<HandOver>, Error> {
        let path = self.socket();
        let _absent: io::Result<()> = fs::remove_file(&path);
        let listener = UnixListener::bind(&path).map_err(|source| Error::RunDir {
            path: self.directory.clone(),
            what: "listen on the socket",
            source,
        })?;
        let (requests, receiver) = mpsc::channel(4);
        let start = self.start;
        tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(answer(stream, start, requests.clone()))),
                    // Out of descriptors, say: not a reason to stop listening, nor to spin.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
        Ok(receiver)
    }

    /// Asks every other live instance to hand over; waits for their answers, but never for long.
    pub(super) async fn take_over(&self) {
        for other in self.others() {
            match timeout(ANSWER, self.ask(&other)).await {
                Ok(Ok(line)) if line == "draining" => {
                    tracing::info!(predecessor = %other, "took over; the predecessor drains");
                }
                Ok(Ok(line)) if line == "younger" => {
                    tracing::info!(instance = %other, "another instance started later: it will take over from this one");
                }
                Ok(Ok(line)) => {
                    tracing::warn!(instance = %other, %line, "unknown answer to a request to hand over");
                }
                Ok(Err(error)) => {
                    tracing::warn!(instance = %other, %error, "an instance cannot be asked to hand over");
                }
                Err(_) => {
                    tracing::warn!(instance = %other, "an instance does not hand over; both steer until one of them ends");
                }
            }
        }
    }

    async fn ask(&self, other: &str) -> io::Result<String> {
        let mut stream = UnixStream::connect(self.directory.join(format!("{other}.sock"))).await?;
        stream
            .write_all(format!("hand over 1 {} {}\n", self.start, self.name).as_bytes())
            .await?;
        read_line(&mut stream).await
    }

    /// Live instances but this one.
    fn others(&self) -> Vec<String> {
        let others = lock_files(&self.directory)
            .into_iter()
            .filter(|(name, _)| *name != self.name);
        others
            .filter(|(_, path)| is_held(path))
            .map(|(name, _)| name)
            .collect()
    }

    fn socket(&self) -> PathBuf {
        self.directory.join(format!("{}.sock", self.name))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // While the lock is still held: nobody else has this name.
        for path in [self.socket(), self.directory.join(format!("{}.lock", self.name))] {
            let _absent: io::Result<()> = fs::remove_file(path);
        }
    }
}

/// One request, from an instance that started at another time than ours, `start`.
async fn answer(mut stream: UnixStream, start: u64, requests: mpsc::Sender<HandOver>) {
    let Ok(Ok(line)) = timeout(ANSWER, read_line(&mut stream)).await else {
        return;
    };
    let answer = match parse(&line) {
        None => "unknown request\n",
        Some((asks, _)) if asks <= start => "younger\n",
        Some((_, successor)) => {
            let (done, drained) = oneshot::channel();
            let request = HandOver {
                successor: successor.to_owned(),
                done,
            };
            // An instance that ends already steers nothing either.
            if requests.send(request).await.is_ok() {
                let _ended: Result<(), _> = drained.await;
            }
            "draining\n"
        }
    };
    let _gone: io::Result<()> = stream.write_all(answer.as_bytes()).await;
}

/// `hand over 1 <start> <instance>`.
fn parse(line: &str) -> Option<(u64, &str)> {
    let (start, instance) = line.strip_prefix("hand over 1 ")?.split_once(' ')?;
    Some((start.parse().ok()?, instance))
}

async fn read_line(stream: &mut UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(stream.take(MAX_LINE)).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

/// Removes the files of instances that are dead, and tells their names; never a live one's.
pub fn sweep(directory: &Path) -> Vec<String> {
    let mut removed = Vec::new();
    for (name, path) in lock_files(directory) {
        if let Some(_lock) = of_the_dead(&path) {
            let _absent: io::Result<()> = fs::remove_file(directory.join(format!("{name}.sock")));
            let _absent: io::Result<()> = fs::remove_file(&path);
            removed.push(name);
        }
    }
    removed
}

fn lock_files(directory: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = |entry: fs::DirEntry| {
        let name = entry.file_name().to_str()?.strip_suffix(".lock")?.to_owned();
        Some((name, entry.path()))
    };
    entries.filter_map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own, removed at the end.
    struct RunDir(PathBuf);

    impl RunDir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("grpclb-run-{}-{name}", std::process::id()));
            let _absent: io::Result<()> = fs::remove_dir_all(&path);
            Self(path)
        }
    }

    impl Drop for RunDir {
        fn drop(&mut self) {
            let _absent: io::Result<()> = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_name_belongs_to_one_live_instance_and_is_free_again_after_it() {
        let directory = RunDir::new("name");
        let first = Instance::claim(&directory.0, "a").unwrap();
        assert!(matches!(Instance::claim(&directory.0, "a"), Err(Error::Alive(_))));
        drop(first);
        Instance::claim(&directory.0, "a").unwrap();
        assert_eq!(
            fs::read_dir(&directory.0).unwrap().count(),
            0,
            "nothing is left behind"
        );
    }

    #[test]
    fn what_a_dead_instance_left_is_swept_and_a_live_ones_files_stay() {
        let directory = RunDir::new("sweep");
        let live = Instance::claim(&directory.0, "live").unwrap();
        fs::write(directory.0.join("dead.lock"), "").unwrap();
        fs::write(directory.0.join("dead.sock"), "").unwrap();
        let new = Instance::claim(&directory.0, "new").unwrap();
        assert!(!directory.0.join("dead.lock").exists() && !directory.0.join("dead.sock").exists());
        assert_eq!(new.others(), ["live"]);
        drop(live);
        assert!(new.others().is_empty());
    }

    #[test]
    fn names_that_bpffs_or_a_path_would_not_take_are_refused() {
        let directory = RunDir::new("refused");
        for name in ["", "a.b", "../a", "ä", &"x".repeat(41)] {
            assert!(
                matches!(Instance::claim(&directory.0, name), Err(Error::Name(_))),
                "{name:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_older_instance_hands_over_and_is_not_told_done_before_it_is() {
        let directory = RunDir::new("handover");
        let old = Instance::claim(&directory.0, "old").unwrap();
        let mut requests = old.listen().unwrap();
        let new = Instance::claim(&directory.0, "new").unwrap();
        let mut taking = std::pin::pin!(new.take_over());
        let request = tokio::select! {
            request = requests.recv() => request.unwrap(),
            () = &mut taking => panic!("took over before the old instance had answered"),
        };
        assert_eq!(request.successor, "new");
        request.done.send(()).unwrap();
        taking.await;
    }

    #[tokio::test]
    async fn of_two_that_ask_each_other_the_younger_remains() {
        let directory = RunDir::new("both");
        let old = Instance::claim(&directory.0, "old").unwrap();
        let new = Instance::claim(&directory.0, "new").unwrap();
        let mut asked_of_new = new.listen().unwrap();
        old.take_over().await;
        assert!(
            asked_of_new.try_recv().is_err(),
            "the younger one was not asked to stop"
        );
        assert_eq!(old.ask("new").await.unwrap(), "younger");
    }

    #[tokio::test]
    async fn a_line_that_is_no_request_is_refused_and_changes_nothing() {
        let directory = RunDir::new("garbage");
        let instance = Instance::claim(&directory.0, "a").unwrap();
        let mut requests = instance.listen().unwrap();
        for line in ["stop\n", "hand over 1 x y\n", "hand over 2 99 b\n", "\n"] {
            let mut stream = UnixStream::connect(directory.0.join("a.sock")).await.unwrap();
            stream.write_all(line.as_bytes()).await.unwrap();
            assert_eq!(
                read_line(&mut stream).await.unwrap(),
                "unknown request",
                "{line:?}"
            );
        }
        assert!(requests.try_recv().is_err());
    }
}
