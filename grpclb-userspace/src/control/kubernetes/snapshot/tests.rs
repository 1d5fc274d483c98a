//! What is kept is what is read again, on this boot of this node only, and never a part of it.

use grpclb_engine::balance::Policy;

use super::*;

/// A directory of the test's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("grpclb-snapshot-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn place(&self) -> Place {
        Place::new(&self.0, "node1").unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A state in which every field has a value of its own.
fn desired() -> Desired {
    let mut desired = Desired::default();
    let endpoint = |id: &str, address: &str, state| model::Endpoint {
        id: id.into(),
        address: address.parse().unwrap(),
        weight: 3,
        state,
    };
    for (id, protocol) in [
        ("a/b:1", model::Protocol::Http2),
        ("a/b:2", model::Protocol::Detect),
    ] {
        let port = model::ServicePort {
            id: id.into(),
            addresses: vec!["10.96.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            port: 50051,
            protocol,
            policy: Policy::PeakEwma,
            subset: 7,
            per_connection: true,
            endpoints: vec![
                endpoint("uid-1", "10.244.0.1:80", model::EndpointState::Ready),
                endpoint("uid-2", "[fd00::2]:81", model::EndpointState::Draining),
            ],
        };
        desired.services.insert(id.into(), Arc::new(port));
    }
    let pod = model::PodSpec {
        name: "a/client".into(),
        enabled_by: model::EnabledBy::OwnLabel,
        accelerate: true,
        ports: Arc::from([80, 8080]),
        addresses: Arc::from(["10.244.0.9".parse().unwrap()]),
        adopt: Some(model::Adopt {
            request: "now".into(),
            rate: 5,
        }),
        ..model::PodSpec::new("uid-9".into(), model::NetnsRef::Sandbox("hash".into()))
    };
    desired.pods.insert("uid-9".into(), Arc::new(pod));
    desired
        .left_alone
        .services
        .insert("a/headless".into(), "it is headless".into());
    let left = model::PodLeftAlone {
        name: "a/host".into(),
        reason: "it uses the host's network".into(),
    };
    desired.left_alone.pods.insert("uid-8".into(), left);
    desired
}

#[test]
fn what_was_written_is_read_again() {
    let scratch = Scratch::new("again");
    let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_800_000_001);
    scratch.place().write(&Desired::default(), now).unwrap();
    scratch.place().write(&desired(), now).unwrap();
    let (found, written) = scratch.place().read().unwrap();
    assert_eq!(found, desired());
    assert_eq!(written, now);
    let files = std::fs::read_dir(&scratch.0).unwrap().count();
    assert_eq!(files, 1, "nothing is left beside it");
}

#[test]
fn another_boot_and_another_node_are_not_taken_up() {
    let scratch = Scratch::new("other");
    scratch.place().write(&desired(), SystemTime::now()).unwrap();
    let other = Place {
        boot: "another".to_owned(),
        ..scratch.place()
    };
    assert!(matches!(other.read(), Err(Error::OtherBoot)));
    let other = Place::new(&scratch.0, "node2").unwrap();
    assert!(matches!(other.read(), Err(Error::OtherNode(node)) if node == "node1"));
}

#[test]
fn a_snapshot_that_is_cut_off_or_altered_anywhere_is_not_taken_up() {
    let scratch = Scratch::new("damaged");
    let place = scratch.place();
    place.write(&desired(), SystemTime::now()).unwrap();
    let good = std::fs::read(place.path()).unwrap();
    for length in 0..good.len() {
        std::fs::write(place.path(), &good[..length]).unwrap();
        assert!(place.read().is_err(), "cut off at {length}");
    }
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        std::fs::write(place.path(), bad).unwrap();
        assert!(place.read().is_err(), "altered at {at}");
    }
    std::fs::write(place.path(), good).unwrap();
    assert!(place.read().is_ok());
}
