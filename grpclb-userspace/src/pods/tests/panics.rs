//! The relay's panic in a pod's turn.

use super::*;

#[tokio::test]
async fn panic_of_the_relay_unsteers_the_pod_at_once_and_leaves_others_alone() {
    let (bad, good) = (Named::up("panic-bad"), Named::up("panic-good"));
    let cookie = bad.open().cookie();
    let mut room = Room::start(TOKEN);
    room.want(&[("bad", bad.reference()), ("good", good.reference())]);
    room.status_where("bad", |pod| pod.state == PodState::Steered)
        .await;
    room.status_where("good", |pod| pod.state == PodState::Steered)
        .await;
    while room.asked.try_recv().is_ok() {}

    let (incarnation, panic) = ("bad".into(), "index out of bounds".to_owned());
    let panicked = Panicked { incarnation, panic };
    room.panics.send(panicked).expect("the room runs");
    assert_eq!(room.asked().await, Asked::Unsteer { cookie });
    let Asked::Panicked { name, reason } = room.asked().await else {
        panic!("nobody reports the panic")
    };
    assert!(
        name == "bad" && reason.contains("index out of bounds"),
        "{reason}"
    );
    let status = room
        .status_where("bad", |pod| pod.state == PodState::Paused)
        .await;
    assert_eq!(status.reason, Some(reason));
    assert!(status.settled() && status.port.is_none(), "{status:?}");
    room.status_where("good", |pod| pod.state == PodState::Steered)
        .await;
    assert!(room.asked.try_recv().is_err(), "the pod stays as it is");
}
