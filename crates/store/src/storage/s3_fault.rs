//! What went wrong with a request, in an operator's words.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

/// What went wrong with a request.
#[derive(Debug)]
pub(super) struct Fault {
    /// What was said, and the remedy. Never a credential: of the server's answer only its code and message are
    /// taken, and of a signature's mismatch not even that.
    pub(super) reason: String,
    /// There is no such object.
    pub(super) absent: bool,
    /// It is about the bucket or the account, not about one object.
    pub(super) whole: bool,
    /// A condition did not hold; the status.
    pub(super) conditional: Option<u16>,
    /// An answer that had begun broke off: asking for the rest may well work. (A request that failed as a whole was
    /// tried again by the SDK already.)
    pub(super) broken: bool,
}

impl Fault {
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), absent: false, whole: false, conditional: None, broken: false }
    }

    fn whole(reason: impl Into<String>) -> Self {
        Self { whole: true, ..Self::new(reason) }
    }

    /// An answer's body broke off.
    pub(super) fn broken(error: &(dyn StdError + 'static)) -> Self {
        let reason = format!("the connection broke off ({})", innermost(error));
        Self { broken: true, ..Self::new(reason) }
    }

    /// An answer came too slowly.
    pub(super) fn slow(limit: Duration) -> Self {
        let limit = limit.as_secs();
        Self { broken: true, ..Self::new(format!("the answer did not come within {limit} s")) }
    }
}

/// The last cause of an error, which says what really happened.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn chain_says(error: &(dyn StdError + 'static), words: &[&str]) -> bool {
    let mut error = Some(error);
    while let Some(cause) = error {
        let text = format!("{cause} {cause:?}").to_lowercase();
        if words.iter().any(|word| text.contains(word)) {
            return true;
        }
        error = cause.source();
    }
    false
}

/// Tells what an error of the SDK is about.
pub(super) fn explain<E>(error: &SdkError<E, HttpResponse>) -> Fault
where
    E: ProvideErrorMetadata + StdError + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let status = service.raw().status().as_u16();
            let (code, message) = (service.err().code(), service.err().message());
            said(status, code.unwrap_or(""), message.unwrap_or(""))
        }
        SdkError::TimeoutError(_) => {
            Fault::whole("the server did not answer in time: is the endpoint right, and reachable from here?")
        }
        SdkError::ConstructionFailure(_) | SdkError::DispatchFailure(_) => unreached(error),
        SdkError::ResponseError(_) => {
            Fault::new(format!("the answer is none of S3's ({})", innermost(error)))
        }
        _ => Fault::new(innermost(error)),
    }
}

/// Nothing came back.
fn unreached(error: &(dyn StdError + 'static)) -> Fault {
    let cause = innermost(error);
    if chain_says(error, &["credential", "token"]) {
        return Fault::whole(
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE), or give the machine a role",
        );
    }
    if chain_says(error, &["certificate", "tls", "handshake"]) {
        return Fault::whole(format!(
            "no secure connection ({cause}): check the endpoint's certificate, SSL_CERT_FILE, and whether it speaks https"
        ));
    }
    if chain_says(error, &["dns", "resolve", "lookup address"]) {
        return Fault::whole(format!(
            "the server's name does not resolve ({cause}): check endpoint_url and the network"
        ));
    }
    Fault::whole(format!("the server is not reached ({cause}): check endpoint_url and the network"))
}

/// What the server said.
fn said(status: u16, code: &str, message: &str) -> Fault {
    let quoted = match (code.is_empty(), message.is_empty()) {
        (true, _) => format!("status {status}"),
        (false, true) => code.to_owned(),
        (false, false) => format!("{code}: {}", message.trim_end_matches('.')),
    };
    match (code, status) {
        ("NoSuchBucket", _) => Fault::whole("it does not exist: create it, or correct repository.url"),
        ("PreconditionFailed" | "ConditionalRequestConflict" | "NotModified", _) | ("", 412 | 409) => {
            Fault { conditional: Some(status), ..Fault::new(quoted) }
        }
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "RequestExpired", _) => {
            Fault::whole(format!("the credentials have expired ({code}): renew them"))
        }
        ("RequestTimeTooSkewed", _) => Fault::whole(
            "this machine's clock is too far from the server's (RequestTimeTooSkewed): set it, `timedatectl` shows whether it is synchronised",
        ),
        // The server's message quotes parts of the request.
        ("SignatureDoesNotMatch" | "InvalidAccessKeyId" | "InvalidToken" | "AuthFailure", _) => {
            Fault::whole(format!(
                "the credentials are not accepted ({code}): check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
            ))
        }
        ("PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException", _)
        | (_, 301) => Fault::whole(format!("it is in another region ({quoted}): set repository.region")),
        ("AccessDenied" | "AllAccessDisabled", _) | (_, 401 | 403) => Fault::whole(format!(
            "access is denied ({quoted}): the credentials need s3:GetObject and s3:ListBucket, and s3:PutObject to publish"
        )),
        ("NoSuchKey" | "NotFound", _) | ("", 404) => {
            Fault { absent: true, ..Fault::new("it does not exist") }
        }
        (
            "SlowDown"
            | "ServiceUnavailable"
            | "RequestTimeout"
            | "InternalError"
            | "Throttling"
            | "ThrottlingException",
            _,
        )
        | (_, 429 | 500..=599) => Fault::new(format!("the server is in trouble ({quoted}): try again later")),
        _ => Fault::new(quoted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_says_is_told_apart() {
        let cases = [
            (404, "NoSuchBucket", "correct repository.url"),
            (403, "AccessDenied", "s3:GetObject"),
            (400, "ExpiredToken", "renew them"),
            (403, "RequestTimeTooSkewed", "clock"),
            (403, "SignatureDoesNotMatch", "not accepted"),
            (301, "PermanentRedirect", "repository.region"),
            (400, "AuthorizationHeaderMalformed", "repository.region"),
            (503, "SlowDown", "try again later"),
        ];
        for (status, code, words) in cases {
            let fault = said(status, code, "");
            assert!(fault.reason.contains(words), "{code}: {}", fault.reason);
        }
    }

    #[test]
    fn conditions_404_and_trouble_are_not_confused() {
        assert_eq!(said(412, "PreconditionFailed", "").conditional, Some(412));
        assert_eq!(said(409, "ConditionalRequestConflict", "").conditional, Some(409));
        assert_eq!(said(412, "", "").conditional, Some(412));
        let absent = said(404, "NoSuchKey", "");
        assert!(absent.absent && absent.conditional.is_none());
        assert!(!said(404, "NoSuchBucket", "").absent, "a missing bucket is no missing object");
        assert!(said(500, "", "").reason.contains("trouble") && said(403, "", "").reason.contains("denied"));
    }

    #[test]
    fn a_refused_signature_quotes_nothing_of_the_request() {
        let fault = said(403, "SignatureDoesNotMatch", "AWSAccessKeyId AKIAEXAMPLE StringToSign");
        assert!(!fault.reason.contains("AKIA"), "{}", fault.reason);
    }
}
