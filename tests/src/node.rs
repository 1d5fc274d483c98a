//! A node with pods, made of network namespaces as the `ptp` CNI plugin makes them: each pod has a veth pair to the node
//! and a route through it, so that all its packets pass the node's nftables. No namespace has a link to the outside.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cleanup;
use crate::process::Place;

/// The node's address, which all pods have as their gateway.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);

/// A node. Dropping it removes its pods, processes, cgroup and files.
#[derive(Debug)]
pub struct Node {
    name: String,
    cgroup: PathBuf,
    folder: PathBuf,
    pods: u8,
}

/// One pod: a namespace with one IPv4 and one IPv6 address.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    /// Its namespace's name under `/run/netns`.
    pub namespace: String,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
}

impl Pod {
    /// Its address of the same family as `like`.
    pub fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() {
            self.ipv4.into()
        } else {
            self.ipv6.into()
        }
    }
}

impl Node {
    pub fn new() -> Result<Self> {
        let name = cleanup::unique_name();
        let node = Self {
            cgroup: cleanup::cgroup_root().join(&name),
            folder: std::env::temp_dir().join(&name),
            name,
            pods: 0,
        };
        fs::create_dir(&node.cgroup)
            .with_context(|| format!("cannot make the cgroup {}", node.cgroup.display()))?;
        fs::create_dir(&node.folder)?;
        ip(&format!("netns add {}", node.name))?;
        ip_batch(
            &node.name,
            &format!("link set lo up\naddress add {NODE4}/32 dev lo\n"),
        )?;
        node.inside(
            "for setting in ipv4/ip_forward ipv6/conf/all/forwarding; do echo 1 > /proc/sys/net/$setting; done
             echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad",
        )?;
        Ok(node)
    }

    /// Adds a pod; its addresses follow the order in which pods are made.
    pub fn add_pod(&mut self, name: &str) -> Result<Pod> {
        let number = self
            .pods
            .checked_add(1)
            .filter(|number| *number < 250)
            .context("too many pods")?;
        self.pods = number;
        let pod = Pod {
            name: name.to_owned(),
            namespace: format!("{}-{name}", self.name),
            ipv4: Ipv4Addr::new(10, 244, 1, 1 + number),
            ipv6: Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, 1 + u16::from(number)),
        };
        let (ipv4, ipv6, link) = (pod.ipv4, pod.ipv6, format!("pod{number}"));
        ip(&format!("netns add {}", pod.namespace))?;
        ip_batch(
            &self.name,
            &format!(
                "link add {link} type veth peer name eth0 netns {}\n\
                 link set {link} up\n\
                 address add fe80::1/64 dev {link} nodad\n\
                 route add {ipv4}/32 dev {link}\n\
                 route add {ipv6}/128 dev {link}\n",
                pod.namespace
            ),
        )?;
        ip_batch(
            &pod.namespace,
            &format!(
                "link set lo up\n\
                 address add {ipv4}/32 dev eth0\n\
                 address add {ipv6}/128 dev eth0 nodad\n\
                 link set eth0 up\n\
                 route add {NODE4} dev eth0 scope link\n\
                 route add default via {NODE4}\n\
                 route add default via fe80::1 dev eth0\n"
            ),
        )?;
        Ok(pod)
    }

    /// Where processes of `pod` run.
    pub fn place<'a>(&'a self, pod: &'a Pod) -> Place<'a> {
        Place {
            namespace: &pod.namespace,
            cgroup: &self.cgroup,
            folder: &self.folder,
        }
    }

    /// Where processes of the node itself run, the agent among them.
    pub fn own_place(&self) -> Place<'_> {
        Place {
            namespace: &self.name,
            cgroup: &self.cgroup,
            folder: &self.folder,
        }
    }

    /// The name that everything of this node begins with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cgroup v2 folder that all processes of this node are in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A folder for files of this node, removed with it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs a shell script in the node's own namespace.
    pub fn inside(&self, script: &str) -> Result<String> {
        inside(&self.name, script)
    }

    /// Runs a shell script in the pod's namespace.
    pub fn inside_pod(&self, pod: &Pod, script: &str) -> Result<String> {
        inside(&pod.namespace, script)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        cleanup::remove_named(&self.name);
    }
}

fn inside(namespace: &str, script: &str) -> Result<String> {
    let output = Command::new("nsenter")
        .arg(format!("--net={}/{namespace}", cleanup::NAMESPACES))
        .args(["sh", "-ec", script])
        .output()?;
    if !output.status.success() {
        bail!(
            "in {namespace}: {}\n{}",
            script.trim(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments.split(' '))
        .output()
        .context("cannot run ip")?;
    if !output.status.success() {
        bail!("ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn ip_batch(namespace: &str, lines: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-netns", namespace, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip -netns {namespace}: {}\n{lines}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
