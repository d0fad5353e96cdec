//! That `cargo xtask bench` works: every competitor plays, and the report has what they came to. What they came to says
//! nothing here.

use hicache_tests::bench_binary;
use serde_json::Value;

#[test]
fn every_case_is_played_and_reported() {
    let out = tempfile::tempdir().unwrap();
    let output = bench_binary()
        .args(["--small", "--rounds", "2", "--only", "512K", "--out"])
        .arg(out.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value =
        serde_json::from_slice(&std::fs::read(out.path().join("bench.json")).unwrap()).unwrap();
    let results = report["results"].as_array().unwrap();
    assert!(results.len() > 10, "{}", results.len());
    for result in results {
        let name = result["name"].as_str().unwrap();
        assert!(said.contains(name), "{name} is not in the table");
        for played in result["played"].as_array().unwrap() {
            assert_eq!(played["measures"].as_array().unwrap().len(), 2, "{name}: {}", played["name"]);
        }
        for judged in result["judged"].as_array().unwrap() {
            let values = judged["values"].as_array().unwrap();
            assert!(values.len() == 2 && values.iter().all(Value::is_number), "{name}: {judged}");
        }
    }
    let page = std::fs::read_to_string(out.path().join("bench.html")).unwrap();
    assert!(page.contains("<svg") && !page.contains("http://cdn") && page.ends_with("</html>"));
}

#[test]
fn a_case_that_does_not_exist_is_refused() {
    let output = bench_binary().args(["--only", "no such case"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && said.contains("no case has"), "{said}");
}
