//! Who to be, and how a registry is told.

use std::env;
use std::io::Read as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use http_auth::{ChallengeRef, parse_challenges};
use reqwest::blocking::Client;
use reqwest::header::HeaderValue;
use reqwest::{Certificate, StatusCode, Url};
use serde_json::Value;

use super::failure::{broken, is_passing};
use super::{Attempt, Attempted, wanted_pause};
use crate::error::{Error, ErrorKind, Result};
use crate::image::reference::Access;

/// Bytes of a token that are read: they have some thousands.
const TOKEN: u64 = 1 << 20;

/// Who to be.
pub enum Credential {
    /// Nobody; and why, where somebody was to be asked.
    Nobody(Option<String>),
    /// Name and password.
    Password(String, String),
    /// What a token server gives tokens for.
    Identity(String),
}

impl Credential {
    /// That the registry does not let this one in.
    pub fn not_accepted(&self, host: &str, name: &str, said: &str) -> Attempt {
        const REMEDY: &str = "log in with docker login, podman login or skopeo login, or use --creds";
        let (message, remedy) = match self {
            Self::Nobody(None) => (format!("{host} wants to know who asks for {name}{said}"), REMEDY),
            Self::Nobody(Some(why)) => (
                format!(
                    "{host} wants to know who asks for {name}{said}; asking for the credentials failed: {why}"
                ),
                REMEDY,
            ),
            Self::Password(user, _) => {
                (format!("{host} does not accept the credentials of {user} for {name}{said}"), REMEDY)
            }
            Self::Identity(_) => (format!("{host} does not accept the login for {name}{said}"), REMEDY),
        };
        Attempt::Failed(Error::new(ErrorKind::Io, message).remedy(remedy))
    }
}

/// Who to be for `registry`: by the command line, or by what `docker login` and `podman login` left.
pub fn credential(registry: &str, access: &Access) -> Result<Credential> {
    if let Some(words) = &access.credentials {
        let (user, password) = words.split_once(':').unwrap_or((words, ""));
        return Ok(Credential::Password(user.to_owned(), password.to_owned()));
    }
    let found = match &access.credentials_file {
        Some(path) => {
            let file = std::fs::read(path)
                .map_err(|error| Error::io(format!("cannot read {}", path.display()), error))?;
            first_of(registry, |name| docker_credential::get_credential_from_reader(file.as_slice(), name))
        }
        None => first_of(registry, docker_credential::get_podman_credential)
            .or_else(|error| in_further_files(registry).ok_or(error))
            .or_else(|_| first_of(registry, docker_credential::get_credential)),
    };
    Ok(match found {
        Ok(DockerCredential::UsernamePassword(user, password)) => Credential::Password(user, password),
        Ok(DockerCredential::IdentityToken(token)) => Credential::Identity(token),
        Err(
            CredentialRetrievalError::ConfigNotFound
            | CredentialRetrievalError::NoCredentialConfigured
            | CredentialRetrievalError::ConfigReadError,
        ) if access.credentials_file.is_none() => Credential::Nobody(None),
        Err(error) => Credential::Nobody(Some(error.to_string().trim().replace('\n', " "))),
    })
}

/// What is known in the other files of podman: that of who has no directory for the time of the login, as root in a
/// service, and that which stays.
fn in_further_files(registry: &str) -> Option<DockerCredential> {
    let place = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if place("REGISTRY_AUTH_FILE").is_some() {
        return None;
    }
    let of_user = || PathBuf::from(format!("/run/containers/{}", rustix::process::getuid().as_raw()));
    let of_login = place("XDG_RUNTIME_DIR").is_none().then(of_user);
    let settings = place("XDG_CONFIG_HOME").or_else(|| Some(place("HOME")?.join(".config")));
    let files = [of_login, settings.map(|directory| directory.join("containers"))].into_iter().flatten();
    let known = |directory: PathBuf| {
        let file = std::fs::read(directory.join("auth.json")).ok()?;
        first_of(registry, |name| docker_credential::get_credential_from_reader(file.as_slice(), name)).ok()
    };
    files.into_iter().find_map(known)
}

/// The certificates of authorities that are trusted besides those of the system: the user's; where the system has none at
/// all, as in an image with nothing but this program, those that Mozilla trusts.
pub fn authorities(access: &Access) -> Result<Vec<Certificate>> {
    let mut all = certificates(access)?;
    if rustls_native_certs::load_native_certs().certs.is_empty() {
        let bundled = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        all.extend(bundled.filter_map(|certificate| Certificate::from_der(certificate).ok()));
    }
    Ok(all)
}

/// What is `known` for the registry under one of the names that it has for those who log in.
fn first_of(
    registry: &str,
    known: impl Fn(&str) -> std::result::Result<DockerCredential, CredentialRetrievalError>,
) -> std::result::Result<DockerCredential, CredentialRetrievalError> {
    // What docker login, and podman login, call the registry of Docker.
    let more: &[&str] = match registry {
        "index.docker.io" | "docker.io" => &["https://index.docker.io/v1/", "docker.io"],
        _ => &[],
    };
    let first = known(registry);
    let other = || more.iter().find_map(|name| known(name).ok());
    first.or_else(|error| other().ok_or(error))
}

/// The certificates in the user's directory.
fn certificates(access: &Access) -> Result<Vec<Certificate>> {
    let Some(directory) = &access.certificates else { return Ok(vec![]) };
    let cannot = |error| Error::io(format!("cannot read {}", directory.display()), error);
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "crt" || extension == "pem") {
            let data = std::fs::read(&path).map_err(cannot)?;
            all.extend(Certificate::from_pem_bundle(&data).map_err(|error| {
                Error::new(ErrorKind::Malformed, format!("{} holds no certificate: {error}", path.display()))
            })?);
        }
    }
    Ok(all)
}

/// What a registry at `base` wants to hear that has put the `challenges`, for rights of the `scopes`; nothing
/// where there is nothing to say.
pub fn answer<'h>(
    http: &Client,
    base: &Url,
    challenges: impl Iterator<Item = &'h str>,
    scopes: &[String],
    credential: &Credential,
) -> Attempted<Option<HeaderValue>> {
    let all: Vec<ChallengeRef<'_>> =
        challenges.filter_map(|it| parse_challenges(it).ok()).flatten().collect();
    let of = |scheme: &str| all.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
    if let Some(challenge) = of("Bearer") {
        let token = token(http, base, challenge, scopes, credential)?;
        return Ok(secret(format!("Bearer {token}")));
    }
    match credential {
        Credential::Password(user, password) if of("Basic").is_some() => Ok(secret(basic(user, password))),
        _ => Ok(None),
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A header that no message shows.
fn secret(text: String) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(&text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The token of the server that the `challenge` names.
fn token(
    http: &Client,
    base: &Url,
    challenge: &ChallengeRef<'_>,
    scopes: &[String],
    credential: &Credential,
) -> Attempted<String> {
    let parameter = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm = parameter("realm").unwrap_or_default();
    let unusable = |why: &str| {
        let message = format!("{base} sends for a token to {realm:?}: {why}");
        Error::new(ErrorKind::Io, message).remedy("the registry is set up wrongly")
    };
    let realm_url = Url::parse(&realm).map_err(|error| unusable(&error.to_string()))?;
    if base.scheme() == "https" && realm_url.scheme() != "https" {
        return Err(unusable("credentials would go out in the clear").into());
    }
    let mut words: Vec<(&str, String)> = scopes.iter().map(|scope| ("scope", scope.clone())).collect();
    words.extend(parameter("service").map(|service| ("service", service)));
    let host = realm_url.host_str().unwrap_or_default().to_owned();
    let request = match credential {
        Credential::Nobody(_) => http.get(realm_url).query(&words),
        Credential::Password(user, password) => {
            http.get(realm_url).query(&words).basic_auth(user, Some(password))
        }
        Credential::Identity(identity) => {
            words.push(("grant_type", "refresh_token".into()));
            words.push(("client_id", "vsyspatch".into()));
            words.push(("refresh_token", identity.clone()));
            // Here several scopes are one word.
            let scope = scopes.join(" ");
            words.retain(|(key, _)| *key != "scope");
            words.push(("scope", scope));
            http.post(realm_url).form(&words)
        }
    };
    let answer = request.send().map_err(|error| broken(&host, &error))?;
    let status = answer.status();
    if status != StatusCode::OK {
        let message = format!("the token server {host} answers {status}");
        return Err(if is_passing(status) {
            let error = Error::new(ErrorKind::Unavailable, message).remedy("try again later");
            Attempt::Again(error, wanted_pause(answer.headers()))
        } else {
            credential.not_accepted(&host, scopes.first().map_or("", String::as_str), "")
        });
    }
    let mut body = Vec::new();
    let read = answer.take(TOKEN).read_to_end(&mut body);
    read.map_err(|error| Error::new(ErrorKind::Unavailable, format!("{host} broke off: {error}")))?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let token = ["token", "access_token"].into_iter().find_map(|key| body.get(key)?.as_str());
    token.map(str::to_owned).ok_or_else(|| unusable("its answer holds no token").into())
}
