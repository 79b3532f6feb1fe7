//! Credentials for Google Cloud Storage: Google's application default credentials.
//!
//! In this order: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, the one that
//! `gcloud auth application-default login` writes, the machine's metadata service.
//! `object_store` reads keys of service accounts and users' own credentials; the other kinds of
//! file (`external_account`: workload identity federation; `impersonated_service_account`)
//! need feature `gcp-external-account`.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GcpCredentialProvider, GoogleCloudStorageBuilder};

use super::{env, retry};
use crate::bucket::{Result, StoreError};
use crate::provider::{Wire, chain};

/// `endpoint`: one without TLS is an emulator's, which is given no real token.
pub(crate) async fn provider(endpoint: Option<&str>, wire: &Wire) -> Result<GcpCredentialProvider> {
    if endpoint.is_some_and(|e| e.starts_with("http://")) {
        return Ok(Arc::new(StaticCredentialProvider::new(GcpCredential { bearer: "emulator".into() })));
    }
    if let Some((path, kind)) = file_kind()?
        && !matches!(kind.as_str(), "service_account" | "authorized_user")
    {
        return other_kind(&path, &kind);
    }
    let built = GoogleCloudStorageBuilder::from_env()
        .with_bucket_name("unused")
        .with_retry(retry())
        .with_http_connector(wire.clone())
        .build();
    let store = built.map_err(|e| StoreError::refused("open", "", chain(&e)))?;
    Ok(Arc::clone(store.credentials()))
}

/// The file of credentials, if there is one, and the `type` it says it is of.
fn file_kind() -> Result<Option<(PathBuf, String)>> {
    let (path, named) = match env("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) => (PathBuf::from(path), true),
        None => match env("HOME") {
            Some(home) => (PathBuf::from(home).join(".config/gcloud/application_default_credentials.json"), false),
            None => return Ok(None),
        },
    };
    let refuse =
        |why: String| StoreError::refused("open", "", format_args!("Google credentials {}: {why}", path.display()));
    let text = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return Ok(None),
        read => read.map_err(|e| refuse(e.to_string()))?,
    };
    // Of its content nothing but the type may come into a message.
    let file: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|e| refuse(format!("not JSON (line {}, column {})", e.line(), e.column())))?;
    match file.get("type").and_then(serde_json::Value::as_str) {
        Some(kind) => Ok(Some((path, kind.to_string()))),
        None => Err(refuse("it has no \"type\"".into())),
    }
}

#[cfg(not(feature = "gcp-external-account"))]
fn other_kind(path: &std::path::Path, kind: &str) -> Result<GcpCredentialProvider> {
    let what = "which this build of netsy cannot read (cargo feature gcp-external-account)";
    Err(StoreError::refused("open", "", format_args!("Google credentials {}: type {kind:?}, {what}", path.display())))
}

#[cfg(feature = "gcp-external-account")]
fn other_kind(path: &std::path::Path, kind: &str) -> Result<GcpCredentialProvider> {
    external::provider(path, kind)
}

#[cfg(feature = "gcp-external-account")]
mod external {
    use std::path::Path;
    use std::sync::Arc;

    use async_trait::async_trait;
    use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
    use object_store::CredentialProvider;
    use object_store::gcp::{GcpCredential, GcpCredentialProvider};

    use crate::bucket::{Result, StoreError};
    use crate::provider::chain;

    const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

    pub(super) fn provider(path: &Path, kind: &str) -> Result<GcpCredentialProvider> {
        let name = format!("Google credentials {} of type {kind:?}", path.display());
        let built = Builder::default().with_scopes([SCOPE]).build_access_token_credentials();
        let credentials = built.map_err(|e| StoreError::refused("open", "", format_args!("{name}: {}", chain(&e))))?;
        Ok(Arc::new(Bridge { credentials, name }))
    }

    /// Keeps no tokens itself: the library does, and replaces them in time.
    #[derive(Debug)]
    struct Bridge {
        credentials: AccessTokenCredentials,
        name: String,
    }

    #[async_trait]
    impl CredentialProvider for Bridge {
        type Credential = GcpCredential;

        async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
            match self.credentials.access_token().await {
                Ok(token) => Ok(Arc::new(GcpCredential { bearer: token.token })),
                Err(e) => Err(object_store::Error::Generic {
                    store: "GCS",
                    source: format!("{}: no token can be had: {}", self.name, chain(&e)).into(),
                }),
            }
        }
    }
}

#[cfg(all(test, feature = "gcp-external-account"))]
mod tests {
    use std::io::{Read, Write};
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// Started again as a child by the next test, which sets its environment up.
    #[tokio::test]
    async fn child_gets_a_token() {
        if env("NETSY_TEST_CHILD").is_none() {
            return;
        }
        let wire = Wire::new(Duration::from_secs(5), None).unwrap();
        let credentials = provider(None, &wire).await.unwrap();
        println!("token: {}", credentials.get_credential().await.unwrap().bearer);
    }

    /// Workload identity federation: a token of somebody else's, from a file, is exchanged.
    #[test]
    fn an_external_account_exchanges_its_token() {
        let sts = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/token", sts.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut socket, _) = sts.accept().unwrap();
            let mut request = vec![0; 64 * 1024];
            let mut length = 0;
            // Head and form come in one or several pieces.
            while !String::from_utf8_lossy(&request[..length]).contains("subject-of-the-pod") {
                length += socket.read(&mut request[length..]).unwrap();
            }
            let body =
                r#"{"access_token":"federated","issued_token_type":"x","token_type":"Bearer","expires_in":3600}"#;
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length:";
            write!(socket, "{head} {}\r\n\r\n{body}", body.len()).unwrap();
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("subject"), "subject-of-the-pod").unwrap();
        let account = serde_json::json!({
            "type": "external_account",
            "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": url,
            "credential_source": { "file": dir.path().join("subject") },
        });
        let path = dir.path().join("adc.json");
        std::fs::write(&path, account.to_string()).unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "credentials::gcp::tests::child_gets_a_token", "--nocapture"])
            .env("NETSY_TEST_CHILD", "1")
            .env("GOOGLE_APPLICATION_CREDENTIALS", &path)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("token: federated"), "{text}{}", String::from_utf8_lossy(&output.stderr));
        served.join().unwrap();
    }
}
