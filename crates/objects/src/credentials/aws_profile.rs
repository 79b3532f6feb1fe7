//! AWS profiles, through `aws-config` with our own HTTP client under it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_config::BehaviorVersion;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use http_body_util::BodyExt;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

use super::TIMEOUT;
use super::aws::Found;
use crate::bucket::{Result, StoreError};
use crate::provider::{Wire, chain};

/// Credentials are replaced this long before they expire.
const EXPIRY_MARGIN: Duration = Duration::from_secs(300);
/// And looked at again after this long, if they do not say when they expire.
const UNDATED_AGE_MAX: Duration = Duration::from_secs(900);
/// An answer of a token service.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// `why` is what made us look.
pub(crate) async fn provider(why: &str, wire: &Wire) -> Result<Found> {
    let config = aws_config::defaults(BehaviorVersion::latest()).http_client(Client(wire.clone())).load().await;
    let Some(provider) = config.credentials_provider() else {
        return Err(StoreError::refused("open", "", format_args!("{why}, but it gives no credentials")));
    };
    Ok(Found {
        provider: Arc::new(Bridge { provider, why: why.to_string(), kept: Mutex::new(None) }),
        region: config.region().map(|r| r.as_ref().to_string()),
    })
}

#[derive(Debug)]
struct Bridge {
    provider: SharedCredentialsProvider,
    why: String,
    kept: Mutex<Option<(Arc<AwsCredential>, SystemTime)>>,
}

#[async_trait]
impl CredentialProvider for Bridge {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        // Held while they are fetched: one fetch serves all that wait.
        let mut kept = self.kept.lock().await;
        let now = SystemTime::now();
        if let Some((credential, until)) = &*kept
            && *until > now
        {
            return Ok(Arc::clone(credential));
        }
        let found = self.provider.provide_credentials().await.map_err(|e| object_store::Error::Generic {
            store: "S3",
            source: format!("{}, but no credentials can be had of it: {}", self.why, chain(&e)).into(),
        })?;
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_string(),
            secret_key: found.secret_access_key().to_string(),
            token: found.session_token().map(str::to_string),
        });
        let until = match found.expiry() {
            // Ones that live for less than the margin are used to half of their lives.
            Some(expiry) => (expiry - EXPIRY_MARGIN).max(now + expiry.duration_since(now).unwrap_or_default() / 2),
            None => now + UNDATED_AGE_MAX,
        };
        *kept = Some((Arc::clone(&credential), until));
        Ok(credential)
    }
}

/// The client of [`Wire`], as the AWS libraries want it: so that there is one TLS
/// library, and one set of trusted roots.
#[derive(Debug, Clone)]
struct Client(Wire);

impl HttpClient for Client {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Client {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.client().clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|e| ConnectorError::user(Box::new(e)))?;
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(ConnectorError::user)?.to_bytes();
            let request = http::Request::from_parts(parts, body);
            let mut request = reqwest::Request::try_from(request).map_err(|e| ConnectorError::user(Box::new(e)))?;
            *request.timeout_mut() = Some(TIMEOUT);
            let answer = client.execute(request).await.map_err(|e| {
                let timed_out = e.is_timeout();
                let e = Box::new(e.without_url());
                if timed_out { ConnectorError::timeout(e) } else { ConnectorError::io(e) }
            })?;
            let answer: http::Response<reqwest::Body> = answer.into();
            let (parts, body) = answer.into_parts();
            let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
            let body = body.collect().await.map_err(ConnectorError::io)?.to_bytes();
            let answer = http::Response::from_parts(parts, SdkBody::from(body));
            HttpResponse::try_from(answer).map_err(|e| ConnectorError::other(Box::new(e), None))
        })
    }
}
