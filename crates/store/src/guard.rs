//! What passes between `object_store` and the network: pauses that a store asks for are kept, and
//! error pages are cut down to their code.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService, ReqwestConnector,
};

use crate::Throttled;

/// A pause up to this length is waited here, and the request is made again; a longer one is told to
/// the caller, who has other work and a schedule.
const PAUSE_HERE_MAX: Duration = Duration::from_secs(2);
/// No pause is believed to be longer.
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// An error's code stands in the first bytes of its page; nothing more of it is read.
const ERROR_PAGE_MAX: usize = 16 << 10;
/// No code is longer.
const CODE_MAX: usize = 64;

/// Connects as `object_store` does by itself, with a [`Guard`] in between.
#[derive(Debug)]
pub(crate) struct Guarded;

impl HttpConnector for Guarded {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Guard(client)))
    }
}

#[derive(Debug)]
struct Guard(HttpClient);

#[async_trait]
impl HttpService for Guard {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = self.0.execute(request).await?;
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(response);
        }
        match pause(&response) {
            None => {}
            Some(after) if after <= PAUSE_HERE_MAX => tokio::time::sleep(after).await,
            // The kind is one that `object_store` does not retry by itself.
            Some(after) => return Err(HttpError::new(HttpErrorKind::Unknown, Throttled { after })),
        }
        Ok(without_page(response).await)
    }
}

/// The pause that an overloaded server asks for. A date instead of seconds is not understood, and
/// the usual schedule holds.
fn pause(response: &HttpResponse) -> Option<Duration> {
    if !matches!(response.status().as_u16(), 429 | 503) {
        return None;
    }
    let number = |name: &str| -> Option<u64> {
        let value = response.headers().get(name)?;
        value.to_str().ok()?.trim().parse().ok()
    };
    let milliseconds = ["x-ms-retry-after-ms", "retry-after-ms"];
    let exact = milliseconds.into_iter().find_map(number);
    let pause = exact.map(Duration::from_millis);
    let pause = pause.or_else(|| number("retry-after").map(Duration::from_secs));
    pause.map(|pause| pause.min(PAUSE_MAX))
}

/// The answer with its error's code for a body. Servers and proxies quote requests in error pages,
/// with the credentials that were in them, and a page may be of any length.
async fn without_page(response: HttpResponse) -> HttpResponse {
    let (mut parts, body) = response.into_parts();
    let page = beginning(body).await;
    let code = parts.headers.get("x-ms-error-code");
    let code = code.and_then(|code| word(code.as_bytes()));
    let code = code.or_else(|| code_of(&page)).unwrap_or_default();
    parts.headers.remove("content-length");
    HttpResponse::from_parts(parts, HttpResponseBody::from(code))
}

async fn beginning(body: HttpResponseBody) -> Vec<u8> {
    let mut page = Vec::new();
    let mut parts = body.bytes_stream();
    // A page that breaks off is as good as its beginning.
    while page.len() < ERROR_PAGE_MAX
        && let Some(Ok(part)) = parts.next().await
    {
        let part: Bytes = part;
        let room = ERROR_PAGE_MAX.saturating_sub(page.len()).min(part.len());
        page.extend_from_slice(part.get(..room).unwrap_or_default());
    }
    page
}

/// The text of `<Code>`, as S3, Azure and GCS put it.
fn code_of(page: &[u8]) -> Option<String> {
    let page = String::from_utf8_lossy(page);
    let (_, rest) = page.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    word(code.as_bytes())
}

/// `bytes` as text, if they are one short word.
fn word(bytes: &[u8]) -> Option<String> {
    let fits = (1..=CODE_MAX).contains(&bytes.len());
    let letters = bytes.iter().all(u8::is_ascii_alphabetic);
    (fits && letters).then(|| String::from_utf8_lossy(bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_page_keeps_its_code_only() {
        let page = b"<?xml?><Error><Code>SlowDown</Code><Message>Bearer canary</Message></Error>";
        assert_eq!(code_of(page).as_deref(), Some("SlowDown"));
        assert_eq!(code_of(b"<Code>sig=canary</Code>"), None);
        assert_eq!(code_of(b"<Code></Code>"), None);
        assert_eq!(code_of(b"\xff<Code>A"), None);
        assert_eq!(word(&[b'a'; 65]), None);
    }
}
