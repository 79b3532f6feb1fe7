use super::*;

const MINIMAL: &str = r#"{ "cluster_id": "prod-1", "storage": { "bucket_name": "b" } }"#;

fn problems(text: &str) -> Vec<String> {
    parse(text).expect_err("should be refused")
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let loaded = parse(MINIMAL).expect("valid");
    let c = &loaded.config;
    assert_eq!(c.quorum, -1);
    assert_eq!(c.copies_min, 2);
    assert_eq!(c.read_lease, Duration::from_secs(2));
    assert_eq!(c.chunk_bytes, 4 << 20);
    assert_eq!(c.request_bytes_max, 1_572_864);
    assert_eq!(c.storage.provider, Provider::S3);
    let shown = loaded.effective.iter().find(|e| e.key == "limits.request_bytes_max").expect("shown");
    assert_eq!((shown.value.as_str(), shown.source), ("\"1.5 MiB\"", Source::Default));
    let id = loaded.effective.iter().find(|e| e.key == "cluster_id").expect("shown");
    assert_eq!(id.source, Source::File);
}

#[test]
fn comments_and_trailing_commas_are_allowed() {
    let loaded =
        parse("{ // name\n \"cluster_id\": \"a\", /* x */ \"storage\": {\"provider\": \"file\", \"path\": \"/d\",},}");
    assert_eq!(loaded.expect("valid").config.read_lease, Duration::ZERO);
}

#[test]
fn nothing_else_that_is_no_json_is() {
    for text in [
        r#"{"cluster_id": "a" "storage": {"bucket_name": "b"}}"#,
        r#"{'cluster_id': "a", "storage": {"bucket_name": "b"}}"#,
        r#"{"cluster_id": "a", "storage": {"bucket_name": "b"}, "replication": {"quorum": +1}}"#,
        r#"{"cluster_id": "a", "storage": {"bucket_name": "b"}, "replication": {"quorum": 0x1}}"#,
    ] {
        assert!(problems(text)[0].starts_with("not valid JSON"), "{text}");
    }
}

#[test]
fn a_key_given_twice_is_named() {
    let twice = problems(r#"{"cluster_id": "a", "storage": {"bucket_name": "b", "region": "r", "bucket_name": "c"}}"#);
    assert_eq!(twice, ["storage.bucket_name: is given twice: keep one of them"]);
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    let p = problems(
        r#"{ "cluster_id": "a", "storage": { "bucket_name": "b", "key_prefx": "x" }, "compaction_intervall": "5m" }"#,
    );
    assert!(p.iter().any(|p| p.contains("\"storage.key_prefx\"") && p.contains("\"storage.key_prefix\"")), "{p:?}");
    assert!(p.iter().any(|p| p.contains("\"compaction_intervall\"") && p.contains("\"compaction_interval\"")), "{p:?}");
    let section = problems(r#"{ "cluster_id": "a", "storag": { "bucket_name": "b" } }"#);
    assert!(
        section.iter().any(|p| p.ends_with("unknown key \"storag\"; the nearest known key is \"storage\"")),
        "{section:?}"
    );
}

#[test]
fn every_problem_is_reported_at_once_and_names_key_and_value() {
    let p = problems(
        r#"{ "cluster_id": "Bad--Name", "storage": { "provider": "s4" }, "replication": { "quorum": -2, "read_lease": 5 } }"#,
    );
    for part in ["cluster_id", "storage.provider: \"s4\"", "replication.quorum: -2", "replication.read_lease: 5"] {
        assert!(p.iter().any(|p| p.contains(part)), "{part} in {p:?}");
    }
}

#[test]
fn a_section_of_the_wrong_type_is_unknown_not_ignored() {
    let p = problems(r#"{ "cluster_id": "a", "storage": "file" }"#);
    assert!(p.iter().any(|p| p.contains("unknown key \"storage\"")), "{p:?}");
}

#[test]
fn rules_between_keys() {
    let with = |extra: &str| format!(r#"{{ "cluster_id": "a", "storage": {{ "bucket_name": "b" }}, {extra} }}"#);
    assert!(problems(&with(r#""replication": {"quorum": 5}"#))[0].contains("voters_max"));
    let both = r#""replication": {"chunk_buffer": {"threshold_age": "1s", "threshold_age_minutes": 1}}"#;
    assert!(problems(&with(both))[0].contains("threshold_age_minutes"));
    let minutes = parse(&with(r#""replication": {"chunk_buffer": {"threshold_age_minutes": 2}}"#)).expect("valid");
    assert_eq!(minutes.config.chunk_age, Duration::from_secs(120));
    let kms = r#"{ "cluster_id": "a", "storage": { "bucket_name": "b", "encryption": "customer-managed" } }"#;
    assert!(problems(kms)[0].contains("storage.kms_key_id"));
    let slow =
        parse(r#"{ "cluster_id": "a", "storage": { "bucket_name": "b", "class": "STANDARD_IA" } }"#).expect("valid");
    assert_eq!(slow.warnings.len(), 1);
}

#[test]
fn what_has_no_use_is_told() {
    let unused = parse(
        r#"{ "cluster_id": "a", "storage": { "provider": "file", "path": "d", "bucket_name": "b" },
             "replication": { "copies_min": 9 } }"#,
    );
    let warnings = unused.expect("valid").warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].starts_with("storage.bucket_name has no use with storage.provider \"file\""));
    assert!(warnings[1].starts_with("replication.copies_min 9 is more than replication.voters_max, 5"));
    assert_eq!(parse(MINIMAL).expect("valid").warnings, Vec::<String>::new());
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_value_of_a_known_key_panics(key in proptest::sample::select(vec![
        "heartbeat_interval", "storage", "limits", "replication", "snapshot", "cluster_id", "elector",
    ]), value in "(null|true|-?[0-9]{1,30}|\"[a-z0-9.]{0,8}\"|\\[\\]|\\{\\}|\\{\"a\":\\{\\}\\})") {
        let _ = parse(&format!("{{\"{key}\": {value}}}"));
    }
}

/// A whole file with every kind of value, changed at random.
#[test]
fn fuzz_configuration() {
    use netsy_fuzz::Verdict;
    let whole = r#"{ // a cluster
        "cluster_id": "prod-1", /* its name */
        "storage": { "provider": "s3", "bucket_name": "b", "key_prefix": "p/q", "endpoint": "http://127.0.0.1:9000",
            "region": "eu-west-1", "path_style": true, "allow_http": true, "class": "STANDARD", "timeout": "10s" },
        "replication": { "quorum": 0, "copies_min": 2, "chunk_buffer": { "threshold_size_mb": 4, "threshold_age": "1s" } },
        "snapshot": { "threshold_records": 10000, "retention": "24h", },
        "limits": { "request_bytes_max": "1.5 MiB", "txn_ops_max": 128, "db_bytes_max": 8589934592 },
        "compaction_interval": "5m", "drain_timeout": "30s",
    }"#;
    assert!(parse(whole).is_ok());
    let corpus = [whole, MINIMAL].map(|text| text.as_bytes().to_vec());
    netsy_fuzz::run("configuration", &corpus, 10_000, |input| Verdict::from(&parse(&String::from_utf8_lossy(input))));
}

/// Deeper than any stack.
#[test]
fn nesting_without_end_is_refused() {
    for open in ["[", "{\"a\":", "/*", "\"", "[{\"cluster_id\":"] {
        assert!(parse(&open.repeat(200_000)).is_err(), "{open}");
        assert!(parse(&format!("{{\"cluster_id\": \"a\", \"storage\": {}", open.repeat(200_000))).is_err(), "{open}");
    }
}
