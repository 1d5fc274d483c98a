//! Writes a container image as one file: an archive as `docker save` makes it, which `docker load`, `podman load` and
//! `ctr images import` take. Built from nothing but the files that are named; the same files give the same bytes.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// An image of one layer.
pub(crate) struct Image {
    /// `name:tag`.
    pub(crate) reference: String,
    pub(crate) files: Vec<Entry>,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) environment: Vec<String>,
}

/// Something in the image.
pub(crate) enum Entry {
    /// A file of this machine, with its mode.
    File {
        path: &'static str,
        from: PathBuf,
        mode: u32,
    },
    Link {
        path: String,
        to: &'static str,
    },
    Folder {
        path: &'static str,
        mode: u32,
    },
}

impl Image {
    /// Writes the archive to `target`.
    pub(crate) fn write(&self, target: &Path) -> Result<()> {
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        let layer_path = target.with_extension("layer");
        let layer_digest = self.write_layer(&layer_path)?;
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": self.environment,
                "Labels": self.labels.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
            "history": [{"created_by": "cargo xtask image"}],
        }))?;
        let config_name = format!("{}.json", hex(&Sha256::digest(&config)));
        let layer_name = format!("{layer_digest}.tar");
        let manifest = serde_json::to_vec(&json!([{
            "Config": config_name,
            "RepoTags": [self.reference],
            "Layers": [layer_name],
        }]))?;

        let file = File::create(target).with_context(|| format!("cannot write {}", target.display()))?;
        let mut archive = tar::Builder::new(BufWriter::new(file));
        append(
            &mut archive,
            &config_name,
            0o644,
            config.len() as u64,
            &config[..],
        )?;
        append(
            &mut archive,
            "manifest.json",
            0o644,
            manifest.len() as u64,
            &manifest[..],
        )?;
        let layer = File::open(&layer_path)?;
        append(&mut archive, &layer_name, 0o644, layer.metadata()?.len(), layer)?;
        archive.into_inner()?.flush()?;
        fs::remove_file(layer_path)?;
        Ok(())
    }

    /// Writes the files that are in the image into `folder`, for a Dockerfile that takes them from there.
    pub(crate) fn write_files(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        for entry in &self.files {
            match entry {
                Entry::File { path, from, mode } => {
                    let target = folder.join(path);
                    fs::copy(from, &target).with_context(|| format!("cannot write {}", target.display()))?;
                    fs::set_permissions(target, fs::Permissions::from_mode(*mode))?;
                }
                Entry::Link { path, to } => std::os::unix::fs::symlink(to, folder.join(path))?,
                Entry::Folder { path, mode } => {
                    fs::create_dir_all(folder.join(path))?;
                    fs::set_permissions(folder.join(path), fs::Permissions::from_mode(*mode))?;
                }
            }
        }
        Ok(())
    }

    /// Writes the layer and returns its digest.
    fn write_layer(&self, path: &Path) -> Result<String> {
        let digesting = Digesting {
            file: BufWriter::new(File::create(path)?),
            digest: Sha256::new(),
        };
        let mut layer = tar::Builder::new(digesting);
        for entry in &self.files {
            match entry {
                Entry::File { path, from, mode } => {
                    let file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
                    append(&mut layer, path, *mode, file.metadata()?.len(), file)?;
                }
                Entry::Link { path, to } => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    layer.append_link(&mut header, path, to)?;
                }
                Entry::Folder { path, mode } => {
                    let mut header = header(tar::EntryType::Directory, *mode, 0);
                    layer.append_data(&mut header, path, std::io::empty())?;
                }
            }
        }
        let mut digesting = layer.into_inner()?;
        digesting.flush()?;
        Ok(hex(&digesting.digest.finalize()))
    }
}

/// As images name it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    path: &str,
    mode: u32,
    size: u64,
    data: impl std::io::Read,
) -> Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, size);
    Ok(archive.append_data(&mut header, path, data)?)
}

/// Without times and owners, so that nothing of the machine gets into the image.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// A file that computes the digest of what is written to it.
struct Digesting {
    file: BufWriter<File>,
    digest: Sha256,
}

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
