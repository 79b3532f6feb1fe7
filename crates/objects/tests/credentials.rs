//! The chains of credentials, each as a user sets it up. As they are set up by the
//! environment, each case runs in a process of its own, which writes one object; the fake store
//! says who wrote it.

mod common;

use std::process::{Command, Output};

use bytes::Bytes;
use common::token_server::TokenServer;
use netsy_fakestore::{BUCKET, Dialect, FakeStore};
use netsy_objects::{Encryption, Provider, StorageConfig, open};

const CHILD_ENDPOINT: &str = "NETSY_TEST_ENDPOINT";
const EXPIRES: &str = "2999-01-01T00:00:00Z";

/// Started again by the tests as a child; alone it does nothing.
#[tokio::test]
async fn child_writes() {
    let Ok(endpoint) = std::env::var(CHILD_ENDPOINT) else { return };
    let config = StorageConfig {
        bucket: BUCKET.into(),
        endpoint: Some(endpoint),
        allow_http: true,
        encryption: Encryption::None,
        retry_max_age: std::time::Duration::from_secs(2),
        ..StorageConfig::new(Provider::S3)
    };
    let outcome = match open(&config).await {
        Ok(buckets) => buckets.data.create("written", Bytes::new()).await.map(drop),
        Err(e) => Err(e),
    };
    println!("outcome: {}", outcome.map_or_else(|e| e.to_string(), |()| "written".into()));
}

struct Case {
    fake: FakeStore,
    home: tempfile::TempDir,
    env: Vec<(&'static str, String)>,
}

impl Case {
    async fn new() -> Case {
        Case { fake: FakeStore::start(Dialect::S3).await.unwrap(), home: tempfile::tempdir().unwrap(), env: Vec::new() }
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Case {
        self.env.push((name, value.into()));
        self
    }

    fn file(self, path: &str, text: &str) -> Case {
        let path = self.home.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn path(&self, path: &str) -> String {
        self.home.path().join(path).display().to_string()
    }

    /// Who wrote, or the error.
    async fn run(&self) -> Result<String, String> {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "child_writes", "--nocapture"]).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.home.path()).env(CHILD_ENDPOINT, self.fake.endpoint());
        // Nothing here may ask the machine's own metadata service.
        command.env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9").env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        let Output { stdout, stderr, .. } =
            tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
        let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
        let outcome = text.lines().find_map(|l| l.split_once("outcome: ")).map(|(_, o)| o.to_string());
        match outcome.as_deref() {
            Some("written") => Ok(self.fake.last_authorization()),
            Some(error) => Err(error.to_string()),
            None => panic!("the child said nothing of an outcome: {text}"),
        }
    }
}

#[tokio::test]
async fn keys_in_the_environment() {
    let case = Case::new()
        .await
        .env("AWS_ACCESS_KEY_ID", "AKENV")
        .env("AWS_SECRET_ACCESS_KEY", "s")
        .env("AWS_SESSION_TOKEN", "tok");
    // They go before a profile.
    let case = case.file(".aws/credentials", "[default]\naws_access_key_id = AKFILE\naws_secret_access_key = s\n");
    let who = case.run().await.unwrap();
    assert!(who.contains("Credential=AKENV/") && who.ends_with(" tok"), "{who}");
}

#[tokio::test]
async fn the_container_of_eks_pod_identity() {
    let service = TokenServer::start(|line, _| {
        let body = format!(r#"{{"AccessKeyId":"AKPOD","SecretAccessKey":"s","Token":"pod","Expiration":"{EXPIRES}"}}"#);
        line.starts_with("GET /v1/credentials").then_some(("application/json", body))
    });
    let case = Case::new().await.file("token", "secret of the pod");
    let (uri, token) = (format!("{}/v1/credentials", service.endpoint), case.path("token"));
    let case = case.env("AWS_CONTAINER_CREDENTIALS_FULL_URI", uri).env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token);
    let who = case.run().await.unwrap();
    assert!(who.contains("Credential=AKPOD/") && who.ends_with(" pod"), "{who}");
}

#[tokio::test]
async fn the_machines_role() {
    let service = TokenServer::start(|line, _| {
        let role =
            format!(r#"{{"AccessKeyId":"AKROLE","SecretAccessKey":"s","Token":"role","Expiration":"{EXPIRES}"}}"#);
        match line.split(' ').nth(1)? {
            "/latest/api/token" => Some(("text/plain", "session".into())),
            "/latest/meta-data/iam/security-credentials/" => Some(("text/plain", "node".into())),
            "/latest/meta-data/iam/security-credentials/node" => Some(("application/json", role)),
            _ => None,
        }
    });
    let who = Case::new().await.env("AWS_METADATA_ENDPOINT", &service.endpoint).run().await.unwrap();
    assert!(who.contains("Credential=AKROLE/") && who.ends_with(" role"), "{who}");
    assert!(service.asked()[0].0.starts_with("PUT "), "IMDSv2 starts with a session: {:?}", service.asked());
}

#[tokio::test]
async fn nothing_at_all_is_an_error_that_says_so() {
    let error = Case::new().await.run().await.unwrap_err();
    assert!(error.contains("127.0.0.1:9") || error.contains("credentials"), "{error}");
}

#[cfg(not(feature = "aws-profile"))]
#[tokio::test]
async fn a_profile_is_refused_by_a_build_that_cannot_read_it() {
    let error = Case::new().await.env("AWS_PROFILE", "work").run().await.unwrap_err();
    assert!(error.contains("AWS_PROFILE names \"work\"") && error.contains("aws-profile"), "{error}");
}

#[cfg(feature = "aws-profile")]
mod profiles {
    use super::*;

    const KEYS: &str = "[base]\naws_access_key_id = AKBASE\naws_secret_access_key = s\n";

    #[tokio::test]
    async fn keys_of_a_named_profile_with_its_region() {
        let case = Case::new().await.env("AWS_PROFILE", "base");
        let case = case.file(".aws/credentials", KEYS).file(".aws/config", "[profile base]\nregion = eu-west-9\n");
        let who = case.run().await.unwrap();
        assert!(who.contains("Credential=AKBASE/") && who.contains("/eu-west-9/s3/"), "{who}");
    }

    #[tokio::test]
    async fn the_default_profile_needs_no_naming_and_files_may_be_elsewhere() {
        let case = Case::new().await.file("elsewhere", &KEYS.replace("base", "default"));
        let path = case.path("elsewhere");
        let who = case.env("AWS_SHARED_CREDENTIALS_FILE", path).run().await.unwrap();
        assert!(who.contains("Credential=AKBASE/"), "{who}");
    }

    #[tokio::test]
    async fn a_credential_process() {
        let answer = format!(
            r#"{{"Version":1,"AccessKeyId":"AKPROC","SecretAccessKey":"s","SessionToken":"p","Expiration":"{EXPIRES}"}}"#
        );
        let case = Case::new().await.file("answer.json", &answer);
        let config = format!("[default]\ncredential_process = cat {}\n", case.path("answer.json"));
        let who = case.file(".aws/config", &config).run().await.unwrap();
        assert!(who.contains("Credential=AKPROC/") && who.ends_with(" p"), "{who}");
    }

    #[tokio::test]
    async fn a_chain_of_assumed_roles() {
        let sts = TokenServer::start(|_, body| {
            let role = if body.contains("first") { "AKFIRST" } else { "AKSECOND" };
            let xml = format!(
                "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
                 <AccessKeyId>{role}</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>sts</SessionToken>\
                 <Expiration>{EXPIRES}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
            );
            body.contains("Action=AssumeRole").then_some(("text/xml", xml))
        });
        let config = "[profile second]\nrole_arn = arn:aws:iam::1:role/second\nsource_profile = first\nregion = us-east-1\n\
                      [profile first]\nrole_arn = arn:aws:iam::1:role/first\nsource_profile = base\n";
        let case = Case::new().await.env("AWS_PROFILE", "second").env("AWS_ENDPOINT_URL_STS", &sts.endpoint);
        let who = case.file(".aws/credentials", KEYS).file(".aws/config", config).run().await.unwrap();
        assert!(who.contains("Credential=AKSECOND/") && who.ends_with(" sts"), "{who}");
        assert_eq!(sts.asked().len(), 2, "{:?}", sts.asked());
    }

    #[tokio::test]
    async fn a_single_sign_on_session() {
        let portal = TokenServer::start(|line, _| {
            let json = r#"{"roleCredentials":{"accessKeyId":"AKSSO","secretAccessKey":"s","sessionToken":"sso","expiration":32472144000000}}"#;
            line.contains("/federation/credentials?").then(|| ("application/json", json.to_string()))
        });
        let config = "[default]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = r\nregion = us-east-1\n\
                      [sso-session corp]\nsso_region = us-east-1\nsso_start_url = https://corp.example/start\n";
        // The name of the file is the SHA-1 of the session's name.
        let cache = format!(".aws/sso/cache/{}.json", SHA1_OF_CORP);
        let token = format!(
            r#"{{"accessToken":"t","expiresAt":"{EXPIRES}","region":"us-east-1","startUrl":"https://corp.example/start"}}"#
        );
        let case = Case::new().await.env("AWS_ENDPOINT_URL_SSO", &portal.endpoint);
        let who = case.file(".aws/config", config).file(&cache, &token).run().await.unwrap();
        assert!(who.contains("Credential=AKSSO/") && who.ends_with(" sso"), "{who}");
    }

    const SHA1_OF_CORP: &str = "ee0bfd2552fbd840c02cc48b6e823320543c450f";

    #[tokio::test]
    async fn a_profile_that_is_not_there_is_an_error_that_names_it() {
        let case = Case::new().await.env("AWS_PROFILE", "missing").file(".aws/config", "[profile other]\nregion = x\n");
        let error = case.run().await.unwrap_err();
        assert!(error.contains("AWS_PROFILE names \"missing\""), "{error}");
    }
}
