//! Replays the fuzz targets' committed corpora with the targets' own code, so that what a fuzzer found stays found.

#![allow(unreachable_pub, reason = "the targets are modules of a library as well")]

#[path = "../fuzz/src/frames.rs"]
mod frames;
#[path = "../fuzz/src/hpack.rs"]
mod hpack;
#[path = "../fuzz/src/splitter.rs"]
mod splitter;

/// Runs every entry of a target's corpus, and some forty of its beginnings.
fn replay(target: &str, run: fn(&[u8])) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
    let folder = std::path::Path::new(corpus).join(target);
    let mut entries = 0;
    for entry in std::fs::read_dir(&folder).expect("the target's corpus") {
        let data = std::fs::read(entry.expect("an entry").path()).expect("a readable entry");
        run(&data);
        for end in (0..data.len()).step_by(1 + data.len() / 40) {
            run(&data[..end]);
        }
        entries += 1;
    }
    assert!(entries > 0, "{} is empty", folder.display());
}

#[test]
fn the_corpus_of_frames_holds() {
    replay("frames", frames::run);
}

#[test]
fn the_corpus_of_hpack_holds() {
    replay("hpack", hpack::run);
}

#[test]
fn the_corpus_of_the_splitter_holds() {
    replay("splitter", splitter::run);
}
