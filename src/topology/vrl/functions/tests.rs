//! Every function of VRL's, tried with hostile arguments in a process of its own whose memory is limited.

use std::{
    collections::BTreeMap,
    fmt::Write,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use ::vrl::{
    compiler::{function::Parameter, value::kind},
    value::{ObjectMap, Value},
};

use super::*;
use crate::{
    stream::lane::STACK,
    topology::{
        syntax::{
            problem::{Problems, SourceFile},
            yaml,
        },
        vrl::{
            BOUNDS, Machine, Use, Vrl, compile,
            document::{Document, Subject},
        },
    },
};

const CHILD: &str = "OMNILINK_TEST_VRL_FUNCTIONS";

#[test]
fn every_function_of_the_library_was_looked_at() {
    let all = vrl::stdlib::all();
    let unknown: Vec<_> = all
        .iter()
        .map(|f| f.identifier())
        .filter(|name| bound(name).is_none())
        .collect();
    assert_eq!(
        unknown,
        Vec::<&str>::new(),
        "say in `bound` what bounds them"
    );
    for function in all
        .iter()
        .filter(|f| f.parameters().iter().any(|p| p.required))
    {
        if let Some(Bound::Checked(watched, _)) = bound(function.identifier()) {
            let known = |keyword: &&str| {
                function
                    .parameters()
                    .iter()
                    .any(|parameter| parameter.keyword == *keyword)
            };
            assert!(
                watched.iter().all(known),
                "{}: {watched:?}",
                function.identifier()
            );
        }
    }
}

fn program(text: &str) -> Option<Vrl> {
    let node = yaml::parse(&serde_json::to_string(text).unwrap()).unwrap();
    let mut problems = Problems::of(Arc::new(SourceFile {
        name: "test".into(),
        text: text.into(),
    }));
    compile(node.text().unwrap(), Use::Map, &mut problems)
}

/// What a hostile producer sends.
fn record() -> Value {
    let text = |text: String| Value::Bytes(text.into());
    let long = 100_000;
    let array: Vec<Value> = (0..20_000).map(Value::Integer).collect();
    let texts: Vec<Value> = (0..20_000).map(|_| text("a".into())).collect();
    let mut deep = Value::Integer(1);
    for _ in 0..120 {
        let mut fields = ObjectMap::new();
        fields.insert("a".repeat(1_000).into(), deep);
        deep = Value::Object(fields);
    }
    let wide: ObjectMap = (0..5_000)
        .map(|n| (format!("k{n}").into(), Value::Integer(n)))
        .collect();
    let dots: ObjectMap = [(".".repeat(long).into(), Value::Null)]
        .into_iter()
        .collect();
    let fields: BTreeMap<&str, Value> = [
        ("text", text("a".repeat(long))),
        ("dots", text(".".repeat(long))),
        ("digits", text("9".repeat(long))),
        ("small", text("a".into())),
        ("none", text(String::new())),
        ("bytes", Value::Bytes(vec![0xff; 3_000].into())),
        ("hash", text("{a=>".repeat(4_000))),
        ("brackets", text("[".repeat(100_000))),
        ("short_brackets", text("[".repeat(16_000))),
        ("short_hash", text("{\"a\"=>".repeat(2_600))),
        ("tags", text("<a>".repeat(40_000))),
        (
            "tags_closed",
            text(format!("{}{}", "<a>".repeat(18_000), "</a>".repeat(18_000))),
        ),
        ("laughs", text(laughs())),
        (
            "cbor",
            Value::Bytes(
                [
                    &vec![0x81; 60_000][..],
                    &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                ]
                .concat()
                .into(),
            ),
        ),
        (
            "cbor_length",
            Value::Bytes(vec![0x9b, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff].into()),
        ),
        ("puny", text(format!("xn--{}", "z".repeat(14_000)))),
        ("percent", text("%ff".repeat(10_000))),
        ("quotes", text("\"".repeat(long))),
        ("pairs", text("a=b ".repeat(25_000))),
        (
            "url",
            text(format!(
                "http://{}.example/?{}",
                "a.".repeat(1_000),
                "a=b&".repeat(20_000)
            )),
        ),
        ("address", text("10.0.0.0/99".into())),
        ("v6", text("ffff::1/129".into())),
        ("time", text("%+%:::::z%999999f%Y%Q".into())),
        ("regex", text("(a*)*{1000}".into())),
        ("least", Value::Integer(i64::MIN)),
        ("most", Value::Integer(i64::MAX)),
        ("minus", Value::Integer(-1)),
        ("zero", Value::Integer(0)),
        ("billion", Value::Integer(1_000_000_000)),
        ("huge", Value::from_f64_or_zero(f64::MAX)),
        ("infinite", Value::from_f64_or_zero(f64::INFINITY)),
        ("tiny", Value::from_f64_or_zero(5e-324)),
        ("array", Value::Array(array)),
        ("texts", Value::Array(texts)),
        ("empty", Value::Array(Vec::new())),
        ("far", Value::Array(vec![Value::Integer(1_000_000_000)])),
        ("long_path", Value::Array(vec![text("a".into()); 100_000])),
        ("deep", deep),
        ("wide", Value::Object(wide)),
        ("dotted", Value::Object(dots)),
        ("object", Value::Object(ObjectMap::new())),
        ("null", Value::Null),
        ("bool", Value::Boolean(true)),
    ]
    .into_iter()
    .collect();
    Value::Object(
        fields
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .collect(),
    )
}

/// Anchors that double what those before them are.
fn laughs() -> String {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for n in 1..40 {
        let before = n - 1;
        let _ = writeln!(text, "a{n}: &a{n} [*a{before}, *a{before}]");
    }
    text
}

/// Expressions for a parameter of these kinds; the first few are ordinary.
fn arguments(parameter: &Parameter) -> Vec<String> {
    let Parameter {
        keyword,
        kind,
        enum_variants,
        ..
    } = parameter;
    let mut all: Vec<&str> = Vec::new();
    let has = |one: u16| kind & one != 0;
    if has(kind::BYTES) {
        all.extend([
            "\"a\"",
            "\"%Y\"",
            "\".\"",
            "\"%{DATA:x}\"",
            "\"utf-8\"",
            "\"combined\"",
            "\"192.168.1.1\"",
            "string!(.text)",
            "string!(.none)",
            "string!(.bytes)",
            "string!(.time)",
            "string!(.regex)",
        ]);
    }
    if has(kind::BYTES) && matches!(*keyword, "value" | "pattern" | "query") {
        all.extend([
            "string!(.dots)",
            "string!(.digits)",
            "string!(.hash)",
            "string!(.brackets)",
            "string!(.short_brackets)",
            "string!(.short_hash)",
            "string!(.tags)",
            "string!(.tags_closed)",
            "string!(.laughs)",
            "string!(.cbor)",
            "string!(.cbor_length)",
            "string!(.puny)",
            "string!(.percent)",
            "string!(.quotes)",
            "string!(.pairs)",
            "string!(.url)",
            "string!(.address)",
            "string!(.v6)",
        ]);
    }
    if has(kind::REGEX) {
        all.extend(["r'a'", "r'(a*)*'", "r''", "r'(?P<x>a|aa)+$'"]);
    }
    if has(kind::INTEGER) {
        all.extend([
            "1",
            "0",
            "2",
            "-1",
            "1000000000",
            "9223372036854775807",
            "int!(.least)",
            "int!(.most)",
            "int!(.minus)",
            "int!(.billion)",
            "int!(.zero)",
        ]);
    }
    if has(kind::FLOAT) {
        all.extend(["1.5", "float!(.huge)", "float!(.infinite)", "float!(.tiny)"]);
    }
    if has(kind::BOOLEAN) {
        all.extend(["true", "false"]);
    }
    if has(kind::TIMESTAMP) {
        all.extend(["t'2020-01-01T00:00:00Z'"]);
    }
    if has(kind::ARRAY) {
        all.extend([
            "[\"a\"]",
            "[1]",
            "[{\"a\": 1}]",
            "[[\"a\", 1]]",
            "[\"%{DATA:x}\"]",
            "[r'a']",
            "array!(.array)",
            "array!(.texts)",
            "array!(.empty)",
            "array!(.far)",
            "array!(.long_path)",
            "[array!(.array), array!(.texts)]",
        ]);
    }
    if has(kind::OBJECT) {
        all.extend([
            "{\"a\": \"b\"}",
            "object!(.deep)",
            "object!(.wide)",
            "object!(.dotted)",
            "object!(.object)",
            "object!(.)",
            "{ \"type\": \"text\", \"replacement\": \"long long long\" }",
        ]);
    }
    if has(kind::NULL) {
        all.push("null");
    }
    let mut all: Vec<String> = all.into_iter().map(Into::into).collect();
    let variants = enum_variants.iter().flat_map(|variants| variants.iter());
    all.extend(variants.map(|variant| format!("\"{}\"", variant.value)));
    match *keyword {
        "path" => all.extend([".array".into(), ".wide".into(), "x.texts".into()]),
        "target" | "field" => all.insert(0, ".small".into()),
        _ => {}
    }
    all
}

/// Calls of a function: an ordinary one, and each argument replaced by each other one.
fn calls(function: &dyn Function) -> Vec<(String, Vrl)> {
    let closures = [
        "",
        " -> |a| { a }",
        " -> |a, b| { true }",
        " -> |a, b| { b }",
        " -> |_, b| { .z = b }",
        " -> |a| { \"b\" }",
    ];
    let parameters = function.parameters();
    let write = |values: &[(&str, String)], closure: &str, strict: &str| {
        let values: Vec<_> = values.iter().map(|(k, v)| format!("{k}: {v}")).collect();
        format!(
            "x = .\n.out = {}{strict}({}){closure}",
            function.identifier(),
            values.join(", ")
        )
    };
    let fitting = |values: &[(&str, String)], closures: &[&str]| {
        closures.iter().find_map(|closure| {
            let texts = ["!", ""].map(|strict| write(values, closure, strict));
            let found = texts
                .into_iter()
                .find_map(|text| Some((program(&text)?, text)));
            let (vrl, text) = found?;
            Some(((text, vrl), (*closure).to_owned()))
        })
    };
    let required: Vec<_> = parameters.iter().filter(|p| p.required).collect();
    let choices: Vec<Vec<String>> = required.iter().map(|p| arguments(p)).collect();
    // The first combination that compiles.
    let total: usize = choices.iter().map(Vec::len).product::<usize>().min(3_000);
    let mut ordinary = None;
    for mut n in 0..total {
        let values: Vec<_> = required
            .iter()
            .zip(&choices)
            .map(|(p, choices)| {
                let choice = choices[n % choices.len()].clone();
                n /= choices.len();
                (p.keyword, choice)
            })
            .collect();
        if let Some((call, closure)) = fitting(&values, &closures) {
            ordinary = Some((values, call, closure));
            break;
        }
    }
    let Some((ordinary, call, closure)) = ordinary else {
        return Vec::new();
    };
    let with = |mut values: Vec<(&'static str, String)>, keyword: &'static str, argument: &str| {
        values.retain(|(known, _)| *known != keyword);
        values.push((keyword, argument.to_owned()));
        values
    };
    let mut all = vec![call];
    for parameter in parameters {
        for argument in arguments(parameter) {
            let values = with(ordinary.clone(), parameter.keyword, &argument);
            all.extend(fitting(&values, &[&closure]).map(|(call, _)| call));
            // A long text with it, too.
            if parameter.keyword != "value" && values.iter().any(|(keyword, _)| *keyword == "value")
            {
                for value in ["string!(.text)", "array!(.texts)", "object!(.wide)"] {
                    let values = with(values.clone(), "value", value);
                    all.extend(fitting(&values, &[&closure]).map(|(call, _)| call));
                }
            }
        }
    }
    all
}

/// Not a test of its own: the process that may be taken down.
#[test]
fn child() {
    // The function to begin with; `all`: all of them.
    let Ok(first) = std::env::var(CHILD) else {
        return;
    };
    let run = move || {
        let record = record();
        let functions = available().into_iter();
        for function in functions.skip_while(|f| first != "all" && f.identifier() != first) {
            let calls = calls(&*function);
            println!("{}: {} calls", function.identifier(), calls.len());
            assert!(
                !calls.is_empty(),
                "no call of `{}` compiles",
                function.identifier()
            );
            for (call, vrl) in calls {
                println!("trying {call:?}");
                let mut subject = Subject::new(
                    Document::from(record.clone()),
                    Value::Object(ObjectMap::new()),
                    &vrl,
                );
                let began = Instant::now();
                // Whatever it says, it answers.
                let answered = Machine::new(BOUNDS).run(&vrl, &mut subject);
                let took = began.elapsed();
                drop((subject, answered));
                println!("took {took:?}");
                assert!(took < Duration::from_mins(1), "{call}: {took:?}");
            }
        }
        println!("all were tried");
    };
    let lane = std::thread::Builder::new().stack_size(STACK);
    lane.spawn(run).unwrap().join().unwrap();
}

#[test]
fn no_function_takes_the_process_down() {
    let test = "topology::vrl::functions::tests::child";
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 6000000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads", "1"])
        .env(CHILD, "all")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let end =
        |text: &str| text[text.floor_char_boundary(text.len().saturating_sub(3_000))..].to_owned();
    assert!(
        output.status.success() && said.contains("all were tried"),
        "{}\n{}\n{}",
        output.status,
        end(&said),
        end(&errors)
    );
}
