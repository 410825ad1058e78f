//! Which repositories a registry has, and which tags a repository: lists in pages, of which one is held at a time.

use std::io::Read as _;

use reqwest::blocking::Client;
use reqwest::header::{HeaderMap, LINK};
use reqwest::{StatusCode, Url};
use serde_json::Value;

use super::failure::Asked;
use super::{Attempt, Repository, Right};
use crate::error::{Error, ErrorKind, Result};
use crate::image::reference::Access;

/// Names that are asked for at a time; the registry may give fewer.
const PAGE: usize = 1000;

/// Bytes of one page that are read: a registry that gives no pages gives a hundred thousand names at once.
const PAGE_BYTES: u64 = 32 << 20;

/// Pages of one list that are read: a million names in pages of a hundred.
const PAGES: usize = 10_000;

/// Takes one name.
type Take<'t> = dyn FnMut(&str) -> Result<()> + 't;

/// The bytes of a page, and where the next one is.
type Page = (Vec<u8>, Option<String>);

/// Gives the names of all repositories of the registry `host` to `take`.
///
/// # Errors
/// `Io` where the registry does not give the list, `Unavailable` where it may later; those of `take`.
pub fn repositories(host: &str, access: &Access, take: &mut Take<'_>) -> Result<()> {
    // A list of repositories is of none of them, but whoever asks is somebody who may ask for one.
    let registry = Repository::open(&format!("{host}/catalog"), access)?;
    let listed = registry.list(Right::List, "/v2/_catalog", "repositories", &[StatusCode::OK], take);
    listed.map(drop).map_err(|error| match error.kind() {
        ErrorKind::Io => error.within(format_args!("the catalog of {host}")).remedy(
            "many registries have none: name repositories (docker://HOST/NAME:*), or a file of references",
        ),
        _ => error,
    })
}

/// Gives all tags of `repository` (`HOST[:PORT]/NAME`) to `take`; whether there is such a repository. A catalog may name
/// one all of whose images were deleted, and there is none then.
///
/// # Errors
/// Those of [`repositories`].
pub fn tags(repository: &str, access: &Access, take: &mut Take<'_>) -> Result<bool> {
    let repository = Repository::open(repository, access)?;
    let path = format!("/v2/{}/tags/list", repository.name.repository());
    repository.list(Right::Pull, &path, "tags", &[StatusCode::OK, StatusCode::NOT_FOUND], take)
}

impl Repository {
    /// Gives all names of the list at `path` of the registry to `take`; a page has them below `key`. Whether there is such
    /// a list, where the `expected` answers have that there is not.
    fn list(
        &self,
        right: Right,
        path: &str,
        key: &str,
        expected: &[StatusCode],
        take: &mut Take<'_>,
    ) -> Result<bool> {
        let mut next = format!("{path}?n={PAGE}");
        for _ in 0..PAGES {
            let Some((body, link)) = self.page(right, &next, expected)? else { return Ok(false) };
            let page: Value = serde_json::from_slice(&body).map_err(|error| {
                Error::new(ErrorKind::Malformed, format!("the list {path} of {}: {error}", self.host()))
            })?;
            // A repository without a tag has `null` for them.
            let names = page.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            names.iter().filter_map(Value::as_str).try_for_each(&mut *take)?;
            match link {
                Some(link) if link != next && !names.is_empty() => next = link,
                _ => return Ok(true),
            }
        }
        let message = format!("the list {path} of {} has more than {PAGES} pages", self.host());
        Err(Error::new(ErrorKind::Malformed, message).remedy("name repositories, or a file of references"))
    }

    /// One page of a list, and where the next one is: in the same registry, whatever host is named.
    fn page(&self, right: Right, path: &str, expected: &[StatusCode]) -> Result<Option<Page>> {
        let asked = Asked { what: "list", name: path, repository: self };
        self.insistently(|| {
            let answer = self.ask_at(right, path, &|http: &Client, url| http.get(url))?;
            let answer = asked.granted(answer, expected)?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let next = next_page(answer.url(), answer.headers());
            let mut body = Vec::new();
            let read = answer.take(PAGE_BYTES).read_to_end(&mut body);
            read.map_err(|error| Attempt::Again(asked.broke_off(&error), None))?;
            Ok(Some((body, next)))
        })
    }
}

/// Path and query of the page that `Link: <...>; rel="next"` names.
fn next_page(of: &Url, headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(LINK).iter().filter_map(|link| link.to_str().ok());
    links.flat_map(|links| links.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.replace(['"', ' '], "").to_lowercase().contains("rel=next");
        let url = of.join(target).ok().filter(|_| is_next)?;
        Some(format!("{}?{}", url.path(), url.query()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_in_any_spelling() {
        let of = Url::parse("http://127.0.0.1:5000/v2/_catalog?n=2").unwrap();
        let next = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, link.parse().unwrap());
            next_page(&of, &headers)
        };
        let page = Some("/v2/_catalog?last=b&n=2".to_owned());
        assert_eq!(next("</v2/_catalog?last=b&n=2>; rel=\"next\""), page);
        assert_eq!(next("<http://other.example/v2/_catalog?last=b&n=2>;REL=next"), page);
        assert_eq!(next("</first>; rel=\"first\", </v2/_catalog?last=b&n=2>; rel=\"next\""), page);
        assert_eq!(next("</v2/_catalog?last=b&n=2>; rel=\"prev\""), None);
    }
}
