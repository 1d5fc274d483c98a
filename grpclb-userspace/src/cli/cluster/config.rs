//! From a kubeconfig, or a pod's service account, to a client.

use std::time::Duration;

use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::{Error, Options};

/// Until a connection stands.
const CONNECT: Duration = Duration::from_secs(5);

/// What the options and the environment say: the kubeconfig that is named, else the user's own, else (within a pod) the
/// service account.
pub(super) async fn read(options: &Options) -> Result<Config, Error> {
    let kubeconfig = match &options.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let kubeconfig = match kubeconfig {
        Ok(kubeconfig) => kubeconfig,
        Err(error) if is_missing(&error) && options.kubeconfig.is_none() => {
            let service_account = Config::incluster().map(patient);
            return service_account.map_err(|_| Error::Kubeconfig("there is none".to_owned()));
        }
        Err(error) => return Err(Error::Kubeconfig(first_line(&error))),
    };
    if let Some(wanted) = &options.context
        && !kubeconfig.contexts.iter().any(|context| context.name == *wanted)
    {
        let known: Vec<&str> = kubeconfig
            .contexts
            .iter()
            .map(|context| context.name.as_str())
            .collect();
        return Err(Error::Context {
            wanted: wanted.clone(),
            known: if known.is_empty() {
                "none".to_owned()
            } else {
                known.join(", ")
            },
        });
    }
    let choice = KubeConfigOptions {
        context: options.context.clone(),
        ..KubeConfigOptions::default()
    };
    match Config::from_custom_kubeconfig(kubeconfig, &choice).await {
        Ok(config) => Ok(patient(config)),
        Err(error) => Err(Error::Kubeconfig(first_line(&error))),
    }
}

/// What is wrong with YAML comes with a drawing of the place below it.
fn first_line(error: &KubeconfigError) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Whether there is any without being named.
pub(in crate::cli) fn exists() -> bool {
    !matches!(Kubeconfig::read(), Err(error) if is_missing(&error))
}

fn is_missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath => true,
        KubeconfigError::ReadConfig(cause, _) => cause.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

/// As patient as a person who waits for the answer.
fn patient(mut config: Config) -> Config {
    config.connect_timeout = Some(CONNECT);
    // A port-forward is silent for as long as nobody speaks.
    config.read_timeout = None;
    config.default_retry = false;
    config
}
