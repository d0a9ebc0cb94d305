//! The functions available to programs: an allow-list of VRL's functions.
//!
//! A program that uses too much memory is stopped between two expressions ([`super::vrl`]), but a single function call may allocate
//! more than that. So each function is either bounded by its input, or its arguments are checked before it runs, or it is left out.

mod checks;
mod guard;
#[cfg(test)]
mod tests;

use vrl::compiler::Function;

use self::{
    checks::{
        each_character, flattened, indented, join, level, number_format, path, replace, ruby_hash,
        searches, short, text, unflattened, xml, yaml, zipped,
    },
    guard::{Check, Guard, Guarded},
};
pub(crate) use checks::{LEVELS, deeper_than};

/// Why a function is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// It is not deterministic: it may return something else when a record is processed again.
    Differs,
    /// The size of its result is not bounded by that of its input.
    Unbounded,
}

/// How the memory of a function is bounded.
enum Bound {
    /// By the size of its input.
    Input,
    /// These arguments are checked before it runs.
    Checked(&'static [&'static str], Check),
    /// The values that it copies for each element of an array are limited.
    Unnest,
    /// By the size of its input. Its result is copied, to distinguish a text from the number with the same digits ([`super::number`]).
    Fresh,
    LeftOut(Why, &'static str),
}

const COMPRESSED: &str =
    "have it sent as it is; a topic's own `compression.type` costs a program nothing";
const CHANCE: &str = "chance is not the same the second time";
const NETWORK: &str = "a program does not ask the network";
const OWN_ID: &str = "make an id of the record's own fields";

/// The bound of a function of VRL's `stdlib-base`; `None`: it has not been reviewed, and is not available.
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
        // At most a million integers.
        | "range"
        | "remove"
        // Its closure is stopped like the program.
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

/// Why a function of VRL is left out, and the alternative.
pub(crate) fn left_out(name: &str) -> Option<(Why, &'static str)> {
    match bound(name) {
        Some(Bound::LeftOut(why, instead)) => Some((why, instead)),
        _ => None,
    }
}

/// The functions available to programs.
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
