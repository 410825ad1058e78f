//! What an answer means that is not what was asked for: what is wrong, what to do, and whether it may pass.

use std::io::Read as _;

use reqwest::StatusCode;
use reqwest::blocking::Response;
use serde_json::Value;

use super::{Attempt, Attempted, Repository, wanted_pause};
use crate::error::{Error, ErrorKind};

/// Bytes of an error's description that are read.
const DESCRIPTION: u64 = 64 << 10;

/// What was asked for.
pub struct Asked<'a> {
    /// `blob` or `manifest`.
    pub what: &'static str,
    /// Tag or digest.
    pub name: &'a str,
    /// Where.
    pub repository: &'a Repository,
}

impl Asked<'_> {
    /// The answer, where its status is one of the `expected` ones.
    pub fn granted(&self, answer: Response, expected: &[StatusCode]) -> Attempted<Response> {
        if expected.contains(&answer.status()) { Ok(answer) } else { Err(self.refused(answer)) }
    }

    fn refused(&self, answer: Response) -> Attempt {
        let (status, pause) = (answer.status(), wanted_pause(answer.headers()));
        let (code, said) = described(answer);
        let host = self.repository.host();
        let name = self.repository.name.repository();
        let failed = |message: String, remedy: &str| {
            Attempt::Failed(Error::new(ErrorKind::Io, format!("{message}{said}")).remedy(remedy))
        };
        match status {
            StatusCode::UNAUTHORIZED => self.repository.credential.not_accepted(host, name, &said),
            StatusCode::FORBIDDEN => failed(
                format!("{host} forbids this for {name}"),
                "the account that is logged in may not do this: use another one, or ask for the right",
            ),
            StatusCode::NOT_FOUND if code == "NAME_UNKNOWN" => {
                failed(format!("{host} has no repository {name}"), "check the name and the tag")
            }
            StatusCode::NOT_FOUND => failed(
                format!("{host} has no {} {} in {name}", self.what, self.name),
                "check the name and the tag",
            ),
            _ if ["NAME_INVALID", "TAG_INVALID"].contains(&code.as_str()) => failed(
                format!("{host} takes {name}:{} for no name", self.name),
                "names have lower-case letters, digits, and single . _ - / between them",
            ),
            status if is_passing(status) => {
                let message = format!("{host} answers {status}{said}");
                Attempt::Again(Error::new(ErrorKind::Unavailable, message).remedy("try again later"), pause)
            }
            status => failed(
                format!("{host} answers {status} for the {} {} of {name}", self.what, self.name),
                "check the name and the registry",
            ),
        }
    }

    /// That the answer broke off.
    pub fn broke_off(&self, error: &std::io::Error) -> Error {
        let (host, Self { what, name, .. }) = (self.repository.host(), self);
        let message = format!("{host} broke off in the {what} {name}: {}", chain(error));
        Error::new(ErrorKind::Unavailable, message).remedy("try again later")
    }
}

/// Whether the same request may succeed a little later.
pub fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status)
}

/// Code and words of the first error that the answer describes.
fn described(answer: Response) -> (String, String) {
    let mut body = Vec::new();
    let _ = answer.take(DESCRIPTION).read_to_end(&mut body);
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |key: &str| {
        let found = body.pointer(&format!("/errors/0/{key}")).and_then(Value::as_str);
        found.unwrap_or_default().chars().take(200).collect::<String>()
    };
    let (code, message) = (text("code"), text("message"));
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    (code, said)
}

/// That `host` gave no answer, and why.
pub fn broken(host: &str, error: &reqwest::Error) -> Attempt {
    let message = format!("no answer of {host}: {}", chain(error));
    let failed = |remedy: &str| Attempt::Failed(Error::new(ErrorKind::Io, message.clone()).remedy(remedy));
    if is_distrust(error) {
        return failed(
            "name the directory with the certificate of its authority with --cert-dir, or trust it with \
             --tls-verify=false",
        );
    }
    if chain(error).contains("InvalidContentType") {
        return failed("it does not speak HTTPS: --tls-verify=false allows plain HTTP");
    }
    if error.is_builder() || error.is_redirect() {
        return failed("check the name and the registry");
    }
    let error = Error::new(ErrorKind::Unavailable, message.clone());
    Attempt::Again(error.remedy("check the name, the network and the registry"), None)
}

/// Whether the certificate of the other side is the reason.
pub fn is_distrust(error: &reqwest::Error) -> bool {
    error.is_connect() && chain(error).contains("certificate")
}

/// What was wrong, with its causes: the connection that was refused, the certificate that nobody vouches for.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
