//! The cluster's certificates and kubeconfigs: two authorities, and a certificate for each component and each node, made
//! anew with each cluster by `openssl`.
//!
//! etcd has none: it listens on the loopback of the control plane's namespace, where only the API server is.

use std::path::Path;

use anyhow::Result;

use super::command::{run, write};
use super::state::{API_SERVICE, Cluster, Machine};

const DAYS: &str = "365";
/// Who signs everything but what speaks for aggregated APIs.
const AUTHORITY: &str = "ca";
/// Who signs the API server's certificate towards aggregated APIs. It must be another one: whoever holds a certificate of
/// it may say which user he speaks for.
const FRONT_PROXY: &str = "front-proxy-ca";

/// Who a certificate is for, and what for.
struct Holder {
    /// The name of its files.
    file: String,
    user: String,
    group: &'static str,
    /// `DNS:…` and `IP:…` that it serves under; none for one that is only a client.
    serves: Vec<String>,
}

pub(super) fn make(cluster: &Cluster) -> Result<()> {
    let folder = cluster.certificates();
    // Only the extensions that are asked for: the machine's openssl.cnf would make each certificate an authority.
    write(
        &folder.join("openssl.cnf"),
        "[req]\ndistinguished_name = subject\n[subject]\n",
    )?;
    make_authority(&folder, AUTHORITY, &format!("grpclb-cluster-{}", cluster.name))?;
    make_authority(&folder, FRONT_PROXY, "front-proxy")?;

    sign(
        &folder,
        FRONT_PROXY,
        &client("front-proxy-client", "front-proxy-client", ""),
    )?;
    sign(&folder, AUTHORITY, &api_server(cluster))?;
    for (file, user, group) in [
        ("admin", "kubernetes-admin", "/O=system:masters"),
        (
            "kube-apiserver-kubelet-client",
            "kube-apiserver-kubelet-client",
            "",
        ),
        ("kube-controller-manager", "system:kube-controller-manager", ""),
        ("kube-scheduler", "system:kube-scheduler", ""),
        ("kube-proxy", "system:kube-proxy", ""),
    ] {
        sign(&folder, AUTHORITY, &client(file, user, group))?;
    }
    for node in cluster.node_machines() {
        sign(&folder, AUTHORITY, &kubelet(cluster, node))?;
    }
    make_service_account_key(&folder)
}

fn client(file: &str, user: &str, group: &'static str) -> Holder {
    Holder {
        file: file.to_owned(),
        user: user.to_owned(),
        group,
        serves: Vec::new(),
    }
}

fn api_server(cluster: &Cluster) -> Holder {
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let addresses = [
        "127.0.0.1".to_owned(),
        API_SERVICE[0].to_owned(),
        API_SERVICE[1].to_owned(),
        cluster.ipv4(Machine::Control),
        cluster.ipv6(Machine::Control),
    ];
    Holder {
        file: "kube-apiserver".to_owned(),
        user: "kube-apiserver".to_owned(),
        group: "",
        serves: names
            .map(|name| format!("DNS:{name}"))
            .into_iter()
            .chain(addresses.map(|address| format!("IP:{address}")))
            .collect(),
    }
}

/// A kubelet serves logs and exec with the certificate by which it is known to the API server as that node.
fn kubelet(cluster: &Cluster, node: Machine) -> Holder {
    let name = node.name();
    Holder {
        user: format!("system:node:{name}"),
        group: "/O=system:nodes",
        serves: vec![
            format!("DNS:{name}"),
            format!("IP:{}", cluster.ipv4(node)),
            format!("IP:{}", cluster.ipv6(node)),
        ],
        file: name,
    }
}

fn make_authority(folder: &Path, name: &str, subject: &str) -> Result<()> {
    let extensions = [
        "basicConstraints=critical,CA:TRUE",
        "keyUsage=critical,keyCertSign,cRLSign,digitalSignature",
        "subjectKeyIdentifier=hash",
    ];
    request(folder, name, &format!("/CN={subject}"), &extensions, None)
}

fn sign(folder: &Path, authority: &str, holder: &Holder) -> Result<()> {
    let subject = format!("{}/CN={}", holder.group, holder.user);
    let names = format!("subjectAltName={}", holder.serves.join(","));
    let mut extensions = vec![
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "authorityKeyIdentifier=keyid",
    ];
    if holder.serves.is_empty() {
        extensions.push("extendedKeyUsage=clientAuth");
    } else {
        extensions.extend(["extendedKeyUsage=serverAuth,clientAuth", &names]);
    }
    request(folder, &holder.file, &subject, &extensions, Some(authority))
}

/// A new key and its certificate, signed by `authority` or by itself.
fn request(
    folder: &Path,
    name: &str,
    subject: &str,
    extensions: &[&str],
    authority: Option<&str>,
) -> Result<()> {
    let file = |name: &str, kind: &str| folder.join(format!("{name}.{kind}")).display().to_string();
    let mut arguments = [
        "req",
        "-x509",
        "-sha256",
        "-nodes",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-days",
        DAYS,
        "-subj",
        subject,
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.extend(["-config".to_owned(), file("openssl", "cnf")]);
    arguments.extend(["-keyout".to_owned(), file(name, "key")]);
    arguments.extend(["-out".to_owned(), file(name, "crt")]);
    if let Some(authority) = authority {
        arguments.extend(["-CA".to_owned(), file(authority, "crt")]);
        arguments.extend(["-CAkey".to_owned(), file(authority, "key")]);
    }
    for extension in extensions {
        arguments.extend(["-addext".to_owned(), (*extension).to_owned()]);
    }
    run("openssl", arguments).map(drop)
}

/// The key that service accounts' tokens are signed with.
fn make_service_account_key(folder: &Path) -> Result<()> {
    let (private, public) = (
        folder.join("service-accounts.key"),
        folder.join("service-accounts.pub"),
    );
    run(
        "openssl",
        [
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
        ]
        .map(Into::into)
        .into_iter()
        .chain([private.clone().into_os_string()]),
    )?;
    run(
        "openssl",
        [
            "pkey".into(),
            "-pubout".into(),
            "-in".into(),
            private.into_os_string(),
            "-out".into(),
            public.into_os_string(),
        ],
    )
    .map(drop)
}

/// Writes a kubeconfig for the holder of the certificate `file`. It carries all that it needs, so that it can be copied
/// to where the certificates are not.
pub(super) fn write_kubeconfig(cluster: &Cluster, file: &str, target: &Path) -> Result<()> {
    let folder = cluster.certificates();
    let data = |file: &str| -> Result<String> {
        let path = folder.join(file).into_os_string();
        Ok(run("base64", ["-w0".into(), path])?.trim().to_owned())
    };
    let context = format!("grpclb-{}", cluster.name);
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {
            "server": cluster.api(),
            "certificate-authority-data": data("ca.crt")?,
        }}],
        "users": [{"name": context, "user": {
            "client-certificate-data": data(&format!("{file}.crt"))?,
            "client-key-data": data(&format!("{file}.key"))?,
        }}],
        "contexts": [{"name": context, "context": {"cluster": context, "user": context}}],
        "current-context": context,
    });
    write(target, &serde_json::to_string_pretty(&config)?)
}
