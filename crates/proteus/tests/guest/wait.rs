//! `vm start --wait`: over as soon as it can be told, however it went.

use crate::image_dir;
use crate::server::{Server, wait_for};
use std::time::{Duration, Instant};

/// An image that no guest can mount.
fn broken_image(server: &Server) -> String {
    let image = server.dir.path().join("broken.erofs");
    std::fs::write(&image, vec![0u8; 1 << 20]).expect("there is room");
    let about = std::fs::read_to_string(image_dir().join("nginx.json")).expect("nginx was built");
    let mut about: serde_json::Value = serde_json::from_str(&about).expect("it is JSON");
    about["name"] = "broken".into();
    std::fs::write(image.with_extension("json"), about.to_string()).expect("there is room");
    image.display().to_string()
}

#[test]
#[ignore = "boots a guest: ./test runs it"]
fn waiting_ends_with_the_reason_when_a_service_failed_and_asks_for_none_that_is_not_wanted() {
    let server = Server::start();
    let guest = image_dir().join("small").display().to_string();
    let nginx = image_dir().join("nginx.erofs").display().to_string();
    let words = ["vm", "create", "web", "--guest", &guest, "--memory", "256MiB"];
    let more = ["--image", &broken_image(&server), "--image", &nginx];
    server.ask(&words.into_iter().chain(more).collect::<Vec<_>>());
    let begun = Instant::now();
    let ended = server.cli(&["vm", "start", "web", "--wait"]);
    assert!(begun.elapsed() < Duration::from_secs(200), "it waited for what cannot come");
    assert_eq!(ended.code, 1, "{}{}", ended.stdout, ended.stderr);
    assert!(ended.stderr.contains("error: web does not serve: broken failed\n"), "{}", ended.stderr);
    assert!(ended.stderr.contains("  because: broken: not started: "), "{}", ended.stderr);
    // The other one comes to serve for all that.
    wait_for("nginx to serve", Duration::from_secs(200), || {
        server.cli(&["vm", "show", "web"]).ok().stdout.contains("ready").then_some(())
    });
    // Started already: told at once.
    let begun = Instant::now();
    assert_eq!(server.cli(&["vm", "start", "web", "--wait"]).code, 1);
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for what cannot come");
    server.cli(&["vm", "stop", "web"]).ok();

    server.ask(&["vm", "create", "bare", "--guest", &guest, "--memory", "256MiB"]);
    let started = server.ask(&["vm", "start", "bare", "--wait"]);
    assert!(started["agent"].is_string(), "{started}");
    server.cli(&["vm", "stop", "bare"]).ok();
}
