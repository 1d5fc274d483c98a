//! Files in a `.tar.gz`, in one folder.

use std::io;
use std::time::SystemTime;

use flate2::Compression;
use flate2::write::GzEncoder;

pub(super) struct Archive {
    folder: String,
    tar: tar::Builder<GzEncoder<Vec<u8>>>,
    /// The first failure; told at the end.
    failed: Option<io::Error>,
}

impl Archive {
    pub(super) fn new(folder: &str) -> Self {
        Self {
            folder: folder.to_owned(),
            tar: tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default())),
            failed: None,
        }
    }

    pub(super) fn add(&mut self, file: &str, content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        header.set_mtime(now.unwrap_or_default().as_secs());
        let path = format!("{}/{file}", self.folder);
        if let Err(error) = self.tar.append_data(&mut header, path, content) {
            self.failed.get_or_insert(error);
        }
    }

    /// The bytes of the archive.
    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self.failed {
            Some(error) => Err(error),
            None => self.tar.into_inner()?.finish(),
        }
    }
}
