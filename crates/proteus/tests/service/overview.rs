//! What the command line makes of many answers: a page of a VM and of all, and the table of `top`. Nothing runs here; what
//! is shown is what was imported.

use crate::server::Server;
use std::path::Path;

fn page(server: &Server, words: &[&str]) -> String {
    let out = server.dir.path().join("page.html");
    let words = [&["report", "-o", out.to_str().unwrap()], words].concat();
    assert!(server.cli(&words).ok().stdout.starts_with("wrote "));
    assert_eq!(server.ask(&words)["path"], out.to_str().unwrap(), "it is replaced");
    std::fs::read_to_string(out).unwrap()
}

fn refused(server: &Server, words: &[&str], code: i32, said: &str) {
    let ended = server.cli(words);
    assert_eq!(ended.code, code, "{}", ended.stderr);
    assert!(ended.stderr.contains(said), "{}", ended.stderr);
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_page_and_a_table_show_what_the_api_says() {
    let server = Server::start();
    let dir = server.dir.path();
    let (disk, csv) = (dir.join("disk.raw"), dir.join("web.csv"));
    std::fs::write(&disk, b"x").unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (first, last) = (now - 4 * 3600, now - 2 * 3600);
    std::fs::write(&csv, format!("time,cpu\n{first},250\n{},500\n{last},750\n", first + 10)).unwrap();
    server.cli(&["vm", "create", "web", "--disk", &format!("root={}", disk.display())]).ok();
    server.cli(&["telemetry", "import", "web", csv.to_str().unwrap()]).ok();

    let before = files(dir);
    let web = page(&server, &["web", "--step", "10m"]);
    assert!(web.contains("<h1>web</h1>") && web.contains("<b>CPU time</b>"), "{web}");
    assert!(web.contains("most 0.75\u{a0}CPUs") && web.contains("<b>Memory</b>: not measured"), "{web}");
    assert!(web.contains("as it was made"), "{web}");
    // What nobody looked at parts the line.
    let line = web.split("class=\"line s0\" d=\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert_eq!(line.matches('M').count(), 2, "{line}");
    assert!(page(&server, &["--fleet"]).contains("0 of 1 run"));
    assert_eq!(files(dir), before + 1, "nothing is left beside the page");
    refused(&server, &["report", "nobody", "-o", "page.html"], 3, "there is no VM nobody");
    refused(&server, &["report", "web", "-o", dir.to_str().unwrap()], 2, "found a folder");

    let table = server.cli(&["top", "--once"]).ok().stdout;
    assert!(table.contains("0 of 1 VMs run") && table.contains("web   stopped  -"), "{table}");
    let all = server.ask(&["top", "--once"]);
    assert_eq!((&all["vms"][0]["vm"]["name"], &all["vms"][0]["usage"]), (&"web".into(), &().into()));
    refused(&server, &["top"], 2, "`proteus top --once` prints it once");
    server.cli(&["vm", "delete", "web"]).ok();
    assert!(page(&server, &["--host"]).contains("There are none."));
}
