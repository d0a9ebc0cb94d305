//! The functions that programs have: each of VRL's is looked at here, and one that is not named is not there.
//!
//! Between two expressions a program is stopped when it holds too much ([`super::vrl`]), but one function may make more than that at
//! once. So each is either bounded by what it is given, or what it is given is looked at before it runs, or it is left out.

use bytes::Bytes;
use vrl::{
    compiler::{
        Context, Expression, ExpressionError, Function, Resolved, TypeState,
        expression::query::{Query, Target},
        function::{ArgumentList, Compiled, Example, FunctionCompileContext, Parameter, closure},
        state::TypeInfo,
    },
    path::OwnedTargetPath,
    value::{KeyString, Value},
};

use super::products::INDEX;

/// Bytes that a function may make of a product of what it is given.
const MADE: usize = 16 << 20;
/// Bytes of a text that becomes a value for every few of them, or that is searched again and again.
const TEXT: usize = 1 << 20;
/// Bytes of a text that takes long for each of them.
const SHORT: usize = 16 << 10;
/// Levels of a value.
pub(crate) const LEVELS: usize = 128;
/// Values that a function may make of a product.
const NODES: usize = 1 << 20;

/// Why a function is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// It does not give the same when a record is processed again.
    Differs,
    /// What it makes of a few bytes has no bound.
    Unbounded,
}

/// Why a function is not run with what it is given. Its text follows the function's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
enum Refused {
    #[error("would make more than {most} bytes")]
    Bytes { most: usize },
    #[error("would make more than {most} values")]
    Nodes { most: usize },
    #[error("takes a text of at most {most} bytes")]
    Text { most: usize },
    #[error("takes a value of at most {most} levels")]
    Levels { most: usize },
    #[error("takes a path of at most {most} levels")]
    Path { most: usize },
    #[error("makes at most {most} levels of a name")]
    Name { most: usize },
    #[error("fills an array up to index {most} at most")]
    Index { most: isize },
    #[error("takes a separator that is not empty")]
    EmptySeparator,
    #[error("takes at least one array")]
    NoArrays,
    #[error("searches too long a text for too many others")]
    Searches,
    #[error("takes a scale of 0 to 100")]
    Scale,
    #[error("takes a compression level of 0 to 9")]
    Compression,
    #[error("takes no text with anchors and aliases")]
    Aliases,
}

type Check = fn(&[Option<Value>]) -> Result<(), Refused>;

/// What bounds a function.
enum Bound {
    /// What it is given.
    Input,
    /// These arguments are looked at.
    Checked(&'static [&'static str], Check),
    /// What it copies for each element of an array.
    Unnest,
    /// What it is given; its answer is a copy, so that a text is told from the number whose digits it is ([`super::number`]).
    Fresh,
    LeftOut(Why, &'static str),
}

const COMPRESSED: &str =
    "have it sent as it is; a topic's own `compression.type` costs a program nothing";
const CHANCE: &str = "chance is not the same the second time";
const NETWORK: &str = "a program does not ask the network";
const OWN_ID: &str = "make an id of the record's own fields";

/// Every function of VRL's `stdlib-base`; `None`: nobody has looked at it.
fn bound(name: &str) -> Option<Bound> {
    use Bound::{Checked, Fresh, Input, LeftOut, Unnest};
    const VALUE: &[&str] = &["value"];
    Some(match name {
        "get_env_var" => LeftOut(Why::Differs, "write what it says into the file"),
        "get_hostname" | "get_timezone_name" => {
            LeftOut(Why::Differs, "it would differ from machine to machine")
        }
        "dns_lookup" | "reverse_dns" | "http_request" => LeftOut(Why::Differs, NETWORK),
        "now" => LeftOut(Why::Differs, "`%timestamp` is when the record was appended"),
        "uuid_v4" | "uuid_v7" => LeftOut(Why::Differs, OWN_ID),
        "random_bool" | "random_bytes" | "random_float" | "random_int" => {
            LeftOut(Why::Differs, CHANCE)
        }
        "log" => LeftOut(Why::Differs, "a route to a topic, or `abort`, shows a record"),
        "decode_gzip" | "decode_lz4" | "decode_snappy" | "decode_zlib" | "decode_zstd" => {
            LeftOut(Why::Unbounded, COMPRESSED)
        }

        "to_string" | "string" => Fresh,
        "unnest" => Unnest,
        "replace" => Checked(&["value", "pattern", "with"], replace),
        "sieve" => Checked(&["value", "replace_single", "replace_repeated"], each_character),
        "redact" => Checked(&["value", "redactor"], each_character),
        "join" => Checked(&["value", "separator"], join),
        "flatten" => Checked(&["value", "separator"], flattened),
        "encode_logfmt" => Checked(VALUE, flattened),
        "encode_key_value" => {
            Checked(&["value", "key_value_delimiter", "field_delimiter"], flattened)
        }
        "unflatten" => Checked(&["value", "separator"], unflattened),
        "encode_json" => Checked(VALUE, indented),
        "zip" => Checked(&["array_0", "array_1"], zipped),
        "set" => Checked(&["path"], path),
        "contains_all" => Checked(&["value", "substrings"], searches),
        "format_number" => Checked(
            &["scale", "grouping_separator", "decimal_separator"],
            number_format,
        ),
        "encode_zstd" => Checked(&["compression_level"], level),
        "parse_xml" => Checked(VALUE, xml),
        "parse_ruby_hash" => Checked(VALUE, ruby_hash),
        "parse_yaml" => Checked(VALUE, yaml),
        "chunks" | "split" | "split_path" | "parse_apache_log" | "parse_aws_alb_log"
        | "parse_aws_cloudwatch_log_subscription_message" | "parse_aws_vpc_flow_log"
        | "parse_cbor" | "parse_cef" | "parse_common_log" | "parse_csv" | "parse_glog"
        | "parse_influxdb" | "parse_key_value" | "parse_klog" | "parse_linux_authorization"
        | "parse_logfmt" | "parse_nginx_log" | "parse_query_string" | "parse_regex"
        | "parse_regex_all" | "parse_syslog" | "parse_tokens" | "parse_url" | "camelcase"
        | "kebabcase" | "pascalcase" | "screamingsnakecase" | "snakecase" => Checked(VALUE, text),
        "decode_punycode" | "encode_punycode" | "parse_grok" | "parse_groks"
        | "parse_user_agent" | "to_regex" | "parse_duration" | "parse_timestamp"
        | "parse_bytes" => Checked(VALUE, short),
        "format_timestamp" => Checked(&["format"], short),

        "abs" | "append" | "array" | "assert" | "assert_eq" | "basename" | "boolean" | "ceil"
        | "community_id" | "compact" | "contains" | "decode_base16" | "decode_base64"
        | "decode_charset" | "decode_mime_q" | "decode_percent" | "del" | "dirname" | "downcase"
        | "encode_base16" | "encode_base64" | "encode_charset" | "encode_csv" | "encode_gzip"
        | "encode_lz4" | "encode_percent" | "encode_snappy" | "encode_zlib" | "ends_with"
        | "exists" | "filter" | "find" | "float" | "floor" | "for_each" | "format_int"
        | "from_entries" | "from_unix_timestamp" | "get" | "haversine" | "includes" | "integer"
        | "int" | "ip_aton" | "ip_cidr_contains" | "ip_ntoa" | "ip_ntop" | "ip_pton"
        | "ip_subnet" | "ip_to_ipv6" | "ipv6_to_ipv4" | "is_array" | "is_boolean" | "is_empty"
        | "is_float" | "is_integer" | "is_ipv4" | "is_ipv6" | "is_json" | "is_null"
        | "is_nullish" | "is_object" | "is_regex" | "is_string" | "is_timestamp" | "keys"
        | "length" | "map_keys" | "map_values" | "match" | "match_any" | "match_array"
        | "match_datadog_query" | "merge" | "mod" | "object" | "object_from_array"
        | "parse_float" | "parse_int" | "parse_json" | "pop" | "push"
        // At most a million whole numbers.
        | "range"
        | "remove"
        // Its closure is stopped as the program is.
        | "replace_with"
        | "round" | "shannon_entropy" | "slice" | "starts_with" | "strip_ansi_escape_codes"
        | "strip_whitespace" | "strlen" | "tag_types_externally" | "tally" | "tally_value"
        | "timestamp" | "bool" | "to_bool" | "to_entries" | "to_float" | "to_int"
        | "to_syslog_facility" | "to_syslog_facility_code" | "to_syslog_level"
        | "to_syslog_severity" | "to_unix_timestamp" | "truncate" | "type_def" | "unique"
        | "upcase" | "uuid_from_friendly_id" | "values" => Input,
        _ => return None,
    })
}

/// Why a function of VRL's is left out, and what is there instead.
pub(crate) fn left_out(name: &str) -> Option<(Why, &'static str)> {
    match bound(name) {
        Some(Bound::LeftOut(why, instead)) => Some((why, instead)),
        _ => None,
    }
}

/// The functions that programs have.
pub(crate) fn available() -> Vec<Box<dyn Function>> {
    vrl::stdlib::all().into_iter().filter_map(guarded).collect()
}

fn guarded(function: Box<dyn Function>) -> Option<Box<dyn Function>> {
    let guard = match bound(function.identifier())? {
        Bound::LeftOut(..) => return None,
        Bound::Input => return Some(function),
        Bound::Checked(watched, check) => Guard::Arguments(watched, check),
        Bound::Unnest => Guard::Unnest,
        Bound::Fresh => Guard::Fresh,
    };
    Some(Box::new(Guarded { function, guard }))
}

#[derive(Clone, Copy, Debug)]
enum Guard {
    Arguments(&'static [&'static str], Check),
    Unnest,
    Fresh,
}

/// A function, and what is looked at before it runs.
#[derive(Debug)]
struct Guarded {
    function: Box<dyn Function>,
    guard: Guard,
}

impl Function for Guarded {
    fn identifier(&self) -> &'static str {
        self.function.identifier()
    }

    fn usage(&self) -> &'static str {
        self.function.usage()
    }

    fn category(&self) -> &'static str {
        self.function.category()
    }

    fn return_kind(&self) -> u16 {
        self.function.return_kind()
    }

    fn pure(&self) -> bool {
        self.function.pure()
    }

    fn examples(&self) -> &'static [Example] {
        self.function.examples()
    }

    fn compile(
        &self,
        state: &TypeState,
        ctx: &mut FunctionCompileContext,
        arguments: ArgumentList,
    ) -> Compiled {
        let name = self.identifier();
        let look = match self.guard {
            Guard::Arguments(watched, check) => Look::Arguments(
                watched
                    .iter()
                    .map(|keyword| arguments.optional(keyword))
                    .collect(),
                check,
            ),
            Guard::Unnest => Look::Unnest(Box::new(arguments.required_query("path")?)),
            Guard::Fresh => Look::Fresh,
        };
        let inner = self.function.compile(state, ctx, arguments)?;
        Ok(Box::new(Call { name, inner, look }))
    }

    fn parameters(&self) -> &'static [Parameter] {
        self.function.parameters()
    }

    fn closure(&self) -> Option<closure::Definition> {
        self.function.closure()
    }
}

#[derive(Clone, Debug)]
enum Look {
    Arguments(Vec<Option<Box<dyn Expression>>>, Check),
    Unnest(Box<Query>),
    Fresh,
}

#[derive(Clone, Debug)]
struct Call {
    name: &'static str,
    inner: Box<dyn Expression>,
    look: Look,
}

impl Expression for Call {
    fn resolve(&self, ctx: &mut Context<'_>) -> Resolved {
        let fine = match &self.look {
            Look::Fresh => return self.inner.resolve(ctx).map(fresh),
            Look::Arguments(watched, check) => {
                let mut given = Vec::with_capacity(watched.len());
                for argument in watched {
                    given.push(match argument {
                        Some(argument) => Some(argument.resolve(ctx)?),
                        None => None,
                    });
                }
                check(&given)
            }
            Look::Unnest(query) => unnested(query, ctx)?,
        };
        match fine {
            Ok(()) => self.inner.resolve(ctx),
            Err(why) => Err(ExpressionError::from(format!("`{}` {why}", self.name))),
        }
    }

    fn type_info(&self, state: &TypeState) -> TypeInfo {
        self.inner.type_info(state)
    }
}

fn fresh(value: Value) -> Value {
    match value {
        Value::Bytes(text)
            if text
                .first()
                .is_some_and(|b| b.is_ascii_digit() || *b == b'-') =>
        {
            Value::Bytes(Bytes::copy_from_slice(&text))
        }
        value => value,
    }
}

fn too_large(made: usize) -> Result<(), Refused> {
    if made > MADE {
        return Err(Refused::Bytes { most: MADE });
    }
    Ok(())
}

fn len(value: Option<&Value>) -> usize {
    value.map_or(0, |value| value.as_bytes().map_or(0, Bytes::len))
}

fn given(values: &[Option<Value>], at: usize) -> Option<&Value> {
    values.get(at)?.as_ref()
}

fn at_most(values: &[Option<Value>], most: usize) -> Result<(), Refused> {
    if len(given(values, 0)) > most {
        return Err(Refused::Text { most });
    }
    Ok(())
}

fn text(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, TEXT)
}

fn short(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT)
}

fn replace(values: &[Option<Value>]) -> Result<(), Refused> {
    let (Some(value), Some(pattern), Some(with)) =
        (given(values, 0), given(values, 1), given(values, 2))
    else {
        return Ok(());
    };
    let (bytes, with_bytes) = (len(Some(value)), len(Some(with)));
    // Nearly always this says it.
    if (bytes + 1).saturating_mul(with_bytes + 1) <= MADE {
        return Ok(());
    }
    let text = String::from_utf8_lossy(value.as_bytes().map_or(&[], |text| text));
    let (matches, groups) = match pattern {
        Value::Regex(regex) => {
            let groups = with
                .as_bytes()
                .map_or(0, |with| memchr::memchr_iter(b'$', with).count());
            (regex.find_iter(&text).count(), groups)
        }
        pattern => {
            let pattern = String::from_utf8_lossy(pattern.as_bytes().map_or(&[], |text| text));
            (text.matches(&*pattern).count(), 0)
        }
    };
    // Each group may be all that was matched.
    let made = matches.saturating_mul(with_bytes);
    too_large(made.saturating_add(groups.saturating_add(1).saturating_mul(bytes)))
}

/// A replacement may come for each character, and for the end.
fn each_character(values: &[Option<Value>]) -> Result<(), Refused> {
    let longest = values
        .iter()
        .skip(1)
        .flatten()
        .map(|value| weigh(value).bytes)
        .max();
    let each = longest.unwrap_or(0).max(16);
    let bytes = values
        .first()
        .and_then(Option::as_ref)
        .map_or(0, |value| weigh(value).bytes);
    too_large((bytes + 1).saturating_mul(each))
}

fn join(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(Value::Array(items)) = given(values, 0) else {
        return Ok(());
    };
    let each = len(given(values, 1));
    let all: usize = items.iter().map(|item| len(Some(item))).sum();
    too_large(all.saturating_add(items.len().saturating_mul(each)))
}

/// What lies in a value.
struct Weight {
    nodes: usize,
    bytes: usize,
    levels: usize,
}

fn weigh(value: &Value) -> Weight {
    let mut weight = Weight {
        nodes: 0,
        bytes: 0,
        levels: 0,
    };
    let mut left = vec![(value, 1)];
    while let Some((value, level)) = left.pop() {
        weight.nodes += 1;
        weight.levels = weight.levels.max(level);
        match value {
            Value::Object(fields) => {
                weight.bytes += fields.keys().map(KeyString::len).sum::<usize>();
                left.extend(fields.values().map(|value| (value, level + 1)));
            }
            Value::Array(items) => left.extend(items.iter().map(|value| (value, level + 1))),
            value => weight.bytes += len(Some(value)),
        }
    }
    weight
}

/// Whether a value has more levels than so many.
pub(crate) fn deeper_than(value: &Value, levels: usize) -> bool {
    let inner = |value: &Value| match levels.checked_sub(1) {
        Some(left) => deeper_than(value, left),
        None => true,
    };
    match value {
        Value::Object(fields) => levels == 0 || fields.values().any(inner),
        Value::Array(items) => levels == 0 || items.iter().any(inner),
        _ => false,
    }
}

/// Each value within is named by all the names above it.
fn flattened(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(value) = given(values, 0) else {
        return Ok(());
    };
    let each: usize = values
        .iter()
        .skip(1)
        .map(|value| len(value.as_ref()))
        .sum::<usize>()
        + 8;
    let mut made: usize = 0;
    let mut left = vec![(value, 0, 1)];
    while let Some((value, above, level)) = left.pop() {
        if level > LEVELS {
            return Err(Refused::Levels { most: LEVELS });
        }
        match value {
            Value::Object(fields) => left.extend(
                fields
                    .iter()
                    .map(|(name, value)| (value, above + name.len() + each, level + 1)),
            ),
            Value::Array(items) => {
                left.extend(
                    items
                        .iter()
                        .map(|value| (value, above + 20 + each, level + 1)),
                );
            }
            value => made = made.saturating_add(above + len(Some(value))),
        }
        too_large(made)?;
    }
    Ok(())
}

fn unflattened(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(value) = given(values, 0) else {
        return Ok(());
    };
    if weigh(value).levels > LEVELS / 2 {
        return Err(Refused::Levels { most: LEVELS / 2 });
    }
    let separator = given(values, 1).and_then(Value::as_bytes);
    let separator = separator.map_or(".".into(), |text| String::from_utf8_lossy(text));
    if separator.is_empty() {
        // It would split a name there for ever.
        return Err(Refused::EmptySeparator);
    }
    let mut left = vec![value];
    while let Some(value) = left.pop() {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name.len() >= separator.len()
                        && name.matches(&*separator).count() >= LEVELS / 2
                    {
                        return Err(Refused::Name { most: LEVELS / 2 });
                    }
                    left.push(value);
                }
            }
            Value::Array(items) => left.extend(items),
            _ => {}
        }
    }
    Ok(())
}

fn indented(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(value) = given(values, 0) else {
        return Ok(());
    };
    let weight = weigh(value);
    if weight.levels > LEVELS {
        return Err(Refused::Levels { most: LEVELS });
    }
    // A byte may be six when it is escaped.
    let plain = weight
        .bytes
        .saturating_mul(6)
        .saturating_add(weight.nodes * 32);
    let spaces = weight.nodes.saturating_mul(weight.levels * 2);
    if plain.saturating_add(spaces) > 8 * MADE {
        return Err(Refused::Bytes { most: 8 * MADE });
    }
    Ok(())
}

/// Of no arrays at all it would make elements for ever.
fn zipped(values: &[Option<Value>]) -> Result<(), Refused> {
    match (given(values, 0), given(values, 1)) {
        (Some(Value::Array(arrays)), None) if arrays.is_empty() => Err(Refused::NoArrays),
        _ => Ok(()),
    }
}

fn path(values: &[Option<Value>]) -> Result<(), Refused> {
    let Some(Value::Array(segments)) = given(values, 0) else {
        return Ok(());
    };
    if segments.len() > LEVELS / 2 {
        return Err(Refused::Path { most: LEVELS / 2 });
    }
    let far = |segment: &Value| matches!(segment, Value::Integer(index) if index.unsigned_abs() > INDEX.unsigned_abs() as u64);
    if segments.iter().any(far) {
        return Err(Refused::Index { most: INDEX });
    }
    Ok(())
}

fn searches(values: &[Option<Value>]) -> Result<(), Refused> {
    let searches = match given(values, 1) {
        Some(Value::Array(items)) => items.len(),
        _ => 0,
    };
    if len(given(values, 0)).saturating_mul(searches) > 1 << 28 {
        return Err(Refused::Searches);
    }
    Ok(())
}

fn number_format(values: &[Option<Value>]) -> Result<(), Refused> {
    if let Some(Value::Integer(scale)) = given(values, 0)
        && !(0..=100).contains(scale)
    {
        return Err(Refused::Scale);
    }
    let separators = len(given(values, 1)) + len(given(values, 2));
    too_large(separators.saturating_mul(512))
}

fn level(values: &[Option<Value>]) -> Result<(), Refused> {
    match given(values, 0) {
        // Higher ones take hundreds of megabytes for a few bytes.
        Some(Value::Integer(level)) if !(0..=9).contains(level) => Err(Refused::Compression),
        _ => Ok(()),
    }
}

/// Its parser goes as deep as the text does: a lane's stack is enough for as deep as so short a text can go.
fn ruby_hash(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT)
}

fn yaml(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT * 4)?;
    let bytes = given(values, 0)
        .and_then(Value::as_bytes)
        .cloned()
        .unwrap_or_default();
    let has = |byte| memchr::memchr(byte, &bytes).is_some();
    // Each anchor may double what those before it are.
    if has(b'&') && has(b'*') {
        return Err(Refused::Aliases);
    }
    Ok(())
}

/// As with [`ruby_hash`], a level takes some bytes more.
fn xml(values: &[Option<Value>]) -> Result<(), Refused> {
    at_most(values, SHORT * 8)
}

/// Each element becomes a copy of all that lies around it.
fn unnested(query: &Query, ctx: &mut Context<'_>) -> Result<Result<(), Refused>, ExpressionError> {
    let look = |root: &Value| {
        let copies = root
            .get(query.path())
            .and_then(Value::as_array)
            .map_or(0, <[Value]>::len);
        if copies.saturating_mul(weigh(root).nodes) > NODES {
            return Err(Refused::Nodes { most: NODES });
        }
        Ok(())
    };
    Ok(match query.target() {
        Target::External(prefix) => {
            let root = ctx.target().target_get(&OwnedTargetPath::root(*prefix));
            root.ok().flatten().map_or(Ok(()), look)
        }
        Target::Internal(variable) => ctx.state().variable(variable.ident()).map_or(Ok(()), look),
        Target::FunctionCall(call) => look(&call.resolve(ctx)?),
        Target::Container(container) => look(&container.resolve(ctx)?),
    })
}

#[cfg(test)]
mod tests;
