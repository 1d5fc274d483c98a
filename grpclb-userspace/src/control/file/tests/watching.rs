//! Changes of the file, in every way in which files change.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::control::{Source, Watch, watch};

/// An event that does not come within this time does not come.
const LIMIT: Duration = Duration::from_secs(20);

/// A directory of the test's own, removed at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("grpclb-watching-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pod(name: &str) -> String {
    format!("pods: [{{name: {name}, netns: host}}]\n")
}

fn start(path: &Path) -> Watch {
    watch(&Source::File(path.to_owned())).unwrap()
}

/// Waits until the pod `name` is what is wanted.
async fn wanted(watch: &mut Watch, name: &str) {
    let found = watch.desired.wait_for(|desired| desired.pods.contains_key(name));
    tokio::time::timeout(LIMIT, found)
        .await
        .unwrap_or_else(|_| panic!("{name} was not taken up"))
        .unwrap();
}

/// Waits until the source complains of something that contains `words`.
async fn complaint(watch: &mut Watch, words: &str) {
    let found = watch
        .health
        .wait_for(|health| health.error.as_ref().is_some_and(|error| error.contains(words)));
    tokio::time::timeout(LIMIT, found)
        .await
        .unwrap_or_else(|_| panic!("no complaint of {words}"))
        .unwrap();
}

/// Waits until the source has nothing to complain of.
async fn recovery(watch: &mut Watch) {
    let found = watch.health.wait_for(|health| health.error.is_none());
    tokio::time::timeout(LIMIT, found)
        .await
        .expect("a recovery")
        .unwrap();
}

#[tokio::test]
async fn a_file_that_is_renamed_over_the_old_one() {
    let directory = Directory::new();
    let path = directory.join("a.yaml");
    fs::write(&path, pod("one")).unwrap();
    let mut watch = start(&path);
    for name in ["two", "three"] {
        fs::write(directory.join(".a.yaml.swp"), pod(name)).unwrap();
        fs::rename(directory.join(".a.yaml.swp"), &path).unwrap();
        wanted(&mut watch, name).await;
    }
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_read_when_its_writer_closes_it() {
    use std::io::Write;
    let directory = Directory::new();
    let path = directory.join("a.yaml");
    fs::write(&path, pod("one")).unwrap();
    let mut watch = start(&path);
    let mut file = fs::File::create(&path).unwrap();
    file.write_all(b"pods: [{name: half").unwrap();
    // Another file's event is no reason to read this one.
    fs::write(directory.join("other"), "").unwrap();
    tokio::task::yield_now().await;
    file.write_all(b"-and-half, netns: host}]\n").unwrap();
    drop(file);
    wanted(&mut watch, "half-and-half").await;
    assert_eq!(watch.health.borrow().generation, 2, "it was read half written");
}

#[tokio::test]
async fn a_config_map_whose_symlink_is_swapped() {
    let directory = Directory::new();
    let publish = |version: &str, name: &str| {
        fs::create_dir(directory.join(version)).unwrap();
        fs::write(directory.join(version).join("a.yaml"), pod(name)).unwrap();
        symlink(version, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    publish("..v1", "one");
    symlink("..data/a.yaml", directory.join("a.yaml")).unwrap();
    let mut watch = start(&directory.join("a.yaml"));
    publish("..v2", "two");
    wanted(&mut watch, "two").await;
    fs::remove_dir_all(directory.join("..v1")).unwrap();
    publish("..v3", "three");
    wanted(&mut watch, "three").await;
}

#[tokio::test]
async fn a_symlink_to_another_directory_is_followed_there() {
    let (directory, elsewhere) = (Directory::new(), Directory::new());
    fs::write(elsewhere.join("real.yaml"), pod("one")).unwrap();
    symlink(elsewhere.join("real.yaml"), directory.join("a.yaml")).unwrap();
    let mut watch = start(&directory.join("a.yaml"));
    fs::write(elsewhere.join("real.yaml"), pod("two")).unwrap();
    wanted(&mut watch, "two").await;
}

#[tokio::test]
async fn a_file_that_is_deleted_keeps_its_state_and_is_read_when_it_returns() {
    let directory = Directory::new();
    let path = directory.join("a.yaml");
    fs::write(&path, pod("one")).unwrap();
    let mut watch = start(&path);
    fs::remove_file(&path).unwrap();
    complaint(&mut watch, "cannot read").await;
    assert!(watch.desired.borrow().pods.contains_key("one"));
    fs::write(&path, pod("two")).unwrap();
    wanted(&mut watch, "two").await;
    assert_eq!(watch.health.borrow().error, None);
}

#[tokio::test]
async fn a_directory_that_is_deleted_and_returns() {
    let directory = Directory::new();
    let inner = directory.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), pod("one")).unwrap();
    let mut watch = start(&inner.join("a.yaml"));
    fs::remove_dir_all(&inner).unwrap();
    complaint(&mut watch, "cannot read").await;
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("a.yaml"), pod("two")).unwrap();
    wanted(&mut watch, "two").await;
    // And the new directory is watched in its turn.
    fs::write(inner.join("a.yaml"), pod("three")).unwrap();
    wanted(&mut watch, "three").await;
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_told_until_a_good_one_comes() {
    let directory = Directory::new();
    let path = directory.join("a.yaml");
    fs::write(&path, pod("one")).unwrap();
    let mut watch = start(&path);
    let before = Arc::clone(&watch.desired.borrow());
    fs::write(&path, "pods: [{name: x}]\n").unwrap();
    complaint(&mut watch, "a.yaml:1:8: pods[0].netns: is missing").await;
    fs::write(&path, "").unwrap();
    complaint(&mut watch, "the file is empty").await;
    assert!(Arc::ptr_eq(&before, &watch.desired.borrow()));
    fs::write(&path, pod("one")).unwrap();
    recovery(&mut watch).await;
    assert!(
        Arc::ptr_eq(&before, &watch.desired.borrow()),
        "the same state must not look like a change"
    );
    assert_eq!(watch.health.borrow().generation, 1);
}

#[tokio::test]
async fn a_broken_file_at_the_start_is_an_error() {
    let directory = Directory::new();
    let path = directory.join("a.yaml");
    let error = watch(&Source::File(path.clone())).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot read {}: ", path.display())),
        "{error}"
    );
    fs::write(&path, "pods: 1\n").unwrap();
    let error = watch(&Source::File(path.clone())).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:1:7: ", path.display())), "{error}");
}

#[tokio::test]
async fn a_watch_that_is_dropped_lets_its_inotify_go() {
    let directory = Directory::new();
    let path = directory.join("a.yaml");
    fs::write(&path, pod("one")).unwrap();
    let mut watch = start(&path);
    let mut desired = watch.desired.clone();
    wanted(&mut watch, "one").await;
    drop(watch);
    // The task has ended when its end of the channel is gone.
    let ended = async { while desired.changed().await.is_ok() {} };
    tokio::time::timeout(LIMIT, ended).await.expect("the task ends");
}
