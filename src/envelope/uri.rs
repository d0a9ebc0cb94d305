//! The grammar of URI references (RFC 3986, section 4.1).

/// Whether `text` is a URI reference. The empty text is one; attributes that must not be empty are checked for that separately.
pub fn is_uri_reference(text: &str) -> bool {
    // The fast path: most are plain paths.
    if text.bytes().all(|b| is_unreserved(b) || b == b'/') && !text.starts_with("//") {
        return true;
    }
    let (rest, fragment) = split(text, '#');
    let (hierarchy, query) = split(rest, '?');
    if ![fragment, query]
        .into_iter()
        .flatten()
        .all(|part| all(part, |b| is_pchar(b) || matches!(b, b'/' | b'?')))
    {
        return false;
    }
    let path = match scheme(hierarchy) {
        Some(after) => after,
        // Without a scheme, the first segment must not contain a colon.
        None if hierarchy
            .split('/')
            .next()
            .is_some_and(|first| first.contains(':')) =>
        {
            return false;
        }
        None => hierarchy,
    };
    let is_path = |path: &str| all(path, |b| is_pchar(b) || b == b'/');
    match path.strip_prefix("//") {
        Some(rest) => {
            let end = rest.find('/').unwrap_or(rest.len());
            is_authority(&rest[..end]) && is_path(&rest[end..])
        }
        None => is_path(path),
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    text.split_once(at)
        .map_or((text, None), |(head, tail)| (head, Some(tail)))
}

/// The text after the scheme and its colon, if there is a scheme.
fn scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once(':')?;
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    (scheme.bytes().next()?.is_ascii_alphabetic() && scheme.bytes().all(good)).then_some(rest)
}

fn is_authority(text: &str) -> bool {
    let (user, host_port) = text.rsplit_once('@').unwrap_or(("", text));
    if !all(user, |b| is_reg_name(b) || b == b':') {
        return false;
    }
    let port = if let Some(literal) = host_port.strip_prefix('[') {
        let Some((address, port)) = literal.split_once(']') else {
            return false;
        };
        if !is_ip_literal(address) {
            return false;
        }
        match port.strip_prefix(':') {
            Some(port) => port,
            None if port.is_empty() => "",
            None => return false,
        }
    } else {
        let (host, port) = host_port.split_once(':').unwrap_or((host_port, ""));
        if !all(host, is_reg_name) {
            return false;
        }
        port
    };
    port.bytes().all(|b| b.is_ascii_digit())
}

fn is_ip_literal(text: &str) -> bool {
    if let Some(future) = text.strip_prefix(['v', 'V']) {
        let Some((version, address)) = future.split_once('.') else {
            return false;
        };
        let good = |b: u8| is_unreserved(b) || is_sub_delim(b) || b == b':';
        return !version.is_empty()
            && version.bytes().all(|b| b.is_ascii_hexdigit())
            && !address.is_empty()
            && address.bytes().all(good);
    }
    text.parse::<std::net::Ipv6Addr>().is_ok()
}

/// Whether every byte satisfies `good` or belongs to a `%XX`.
fn all(text: &str, good: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(b) = bytes.get(at) {
        if good(*b) {
            at += 1;
        } else if *b == b'%'
            && bytes
                .get(at + 1..at + 3)
                .is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit))
        {
            at += 3;
        } else {
            return false;
        }
    }
    true
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~')
}

fn is_sub_delim(b: u8) -> bool {
    matches!(
        b,
        b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'='
    )
}

fn is_reg_name(b: u8) -> bool {
    is_unreserved(b) || is_sub_delim(b)
}

fn is_pchar(b: u8) -> bool {
    is_reg_name(b) || matches!(b, b':' | b'@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_references_follow_the_grammar() {
        let good = [
            "",
            "/shop",
            "shop",
            "./a:b",
            "//host/path",
            "//",
            "https://github.com/cloudevents",
            "mailto:cncf-wg-serverless@lists.cncf.io",
            "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66",
            "/cloudevents/spec/pull/123",
            "1-555-123-4567",
            "http://user:pw@[2001:db8::7]:8080/c=GB?objectClass?one#x/y?z",
            "http://[v7.a:b]/",
            "http://127.0.0.1:/",
            "file:///etc/hosts",
            "?q",
            "#",
            "a%20b",
            "/a//b",
            "tel:+1-816-555-1212",
        ];
        for text in good {
            assert!(is_uri_reference(text), "{text}");
        }
        let bad = [
            "my shop",
            "a:b c",
            "1a:b",
            ":a",
            "ä",
            "%2",
            "%zz",
            "a#b#c",
            "http://[::1/",
            "http://[::g]/",
            "http://[::1]x/",
            "http://a:b/",
            "http://a:1:2/",
            "http://[v.a]/",
            "a[b]",
            "<a>",
            "a\\b",
            "a\"b",
            "{a}",
            "a^b",
            "a\u{0}",
        ];
        for text in bad {
            assert!(!is_uri_reference(text), "{text}");
        }
    }
}
