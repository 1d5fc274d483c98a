//! What `grpclb explain` looks like.

use super::*;

fn step(about: &str, verdict: Verdict, says: &str) -> Step {
    Step {
        about: about.to_owned(),
        verdict,
        says: says.to_owned(),
    }
}

fn endpoint(address: &str, picked: Option<bool>, eligible: bool, verdict: &str) -> Endpoint {
    Endpoint {
        id: "uid".to_owned(),
        address: address.parse().unwrap(),
        node: Some("node2".to_owned()),
        eligible,
        verdict: verdict.to_owned(),
        picked,
        failed: false,
        connections: 1,
        streams: 0,
        calls: 20,
        errors: 0,
    }
}

#[test]
fn every_decision_is_a_line_and_the_last_line_is_the_conclusion() {
    let explained = Explanation {
        pod: "shop/client".to_owned(),
        service: "shop/cart:50051".to_owned(),
        conclusion: Conclusion::Balanced,
        sentence: "Yes: so it is.".to_owned(),
        steps: vec![
            step("labels", Verdict::Yes, "it asks to be steered"),
            step("source", Verdict::Note, "old"),
        ],
        ports: vec![Port {
            id: "shop/cart:50051".to_owned(),
            steps: vec![step("protocol", Verdict::Yes, "its port says that it is HTTP/2")],
            endpoints: vec![
                endpoint("10.244.1.5:8080", Some(true), true, "gets calls: it is ready"),
                endpoint(
                    "10.244.2.5:8080",
                    Some(false),
                    false,
                    "gets no calls: it is not ready",
                ),
            ],
            ..Port::default()
        }],
        ..Explanation::default()
    };
    let expected = "\
shop/client → shop/cart:50051
  ✓ labels       it asks to be steered
  · source       old

shop/cart:50051
  ✓ protocol     its port says that it is HTTP/2
    ENDPOINT         NODE   PICKED  CONNECTIONS  RUNNING  CALLS  ERRORS  WHY
    10.244.1.5:8080  node2  yes               1        0     20       0  gets calls: it is ready
    10.244.2.5:8080  node2  no                1        0     20       0  gets no calls: it is not ready

Yes: so it is.
";
    assert_eq!(explanation(&explained, false), expected);
}

#[test]
fn a_no_ends_with_what_to_change() {
    let explained = Explanation {
        pod: "shop/client".to_owned(),
        service: "shop/cart".to_owned(),
        sentence: "No: it is headless.".to_owned(),
        remedy: Some("dial another".to_owned()),
        steps: vec![step("service", Verdict::No, "it is headless")],
        ..Explanation::default()
    };
    let expected = "\
shop/client → shop/cart
  ✗ service      it is headless

No: it is headless.
What to change: dial another
";
    assert_eq!(explanation(&explained, false), expected);
}
