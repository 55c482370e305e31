//! `quiver token`: makes, lists and revokes tokens.

use std::process::ExitCode;

use hyper::Method;
use serde_json::{Value, json};
use server::access::token::{TokenHash, make};

use crate::Failure;
use crate::args::{Output, TokenArgs, TokenCommand, TokenCreateArgs};
use crate::client;
use crate::table;

const PATH: &str = "/api/v1/metrics/tokens";

/// Runs the command.
pub fn run(args: &TokenArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        TokenCommand::Create(create) if create.register => register(args, create)?,
        TokenCommand::Create(create) => print_entry(create, args.server.output)?,
        TokenCommand::List => list(args)?,
        TokenCommand::Revoke { name } => {
            let escaped: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            client::send(Method::DELETE, &args.server, &format!("{PATH}/{escaped}"), None)?.success()?;
            println!("token {name} is worth nothing any more");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn name_of(create: &TokenCreateArgs) -> String {
    create.name.clone().unwrap_or_else(|| {
        let words: Vec<&str> = create.roles.iter().chain(&create.sources).map(String::as_str).collect();
        words
            .join("-")
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "._:-".contains(c) { c } else { '_' })
            .take(100)
            .collect()
    })
}

fn check(create: &TokenCreateArgs) -> Result<Option<i64>, Failure> {
    if !create.sources.is_empty() && create.roles.iter().any(|role| role != "write") {
        let text = "--source limits what is written, not what is read or changed: it goes with --role write alone";
        return Err(Failure::usage(text));
    }
    let Some(text) = &create.expires_in else { return Ok(None) };
    match server::config::parse_duration_ms(text) {
        Ok(ms) if ms > 0 => Ok(Some(ms)),
        _ => Err(Failure::usage(format!("--expires-in wants a duration such as 90d, not {text:?}"))),
    }
}

/// Makes a token here, and the entry that lets it in.
fn print_entry(create: &TokenCreateArgs, output: Output) -> Result<(), Failure> {
    let lives_ms = check(create)?;
    let token = make().map_err(Failure::failed)?;
    let (name, hash) = (name_of(create), TokenHash::of(&token).to_hex());
    let expires = lives_ms.map(|ms| {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let at = jiff::Timestamp::from_millisecond(now_ms.saturating_add(ms)).unwrap_or(jiff::Timestamp::MAX);
        format!("{at:.0}")
    });
    if output == Output::Json {
        let value = json!({"token": token, "name": name, "sha256": hash, "roles": create.roles, "source_ids": create.sources,
                           "expires": expires, "requests_per_second": create.requests_per_second,
                           "samples_per_second": create.samples_per_second});
        println!("{value}");
        return Ok(());
    }
    let list = |items: &[String]| items.iter().map(|i| format!("{i:?}")).collect::<Vec<_>>().join(", ");
    println!("{token}");
    println!();
    println!("# This is the only time that it is shown. What lets it in is an entry of the configuration:");
    println!("quiver:");
    println!("  auth:");
    println!("    tokens:");
    println!("      - name: {name:?}");
    println!("        sha256: {hash}");
    println!("        roles: [{}]", create.roles.join(", "));
    if !create.sources.is_empty() {
        println!("        source_ids: [{}]", list(&create.sources));
    }
    if let Some(at) = expires {
        println!("        expires: {at}");
    }
    for (key, rate) in
        [("requests_per_second", create.requests_per_second), ("samples_per_second", create.samples_per_second)]
    {
        if let Some(rate) = rate {
            println!("        {key}: {rate}");
        }
    }
    Ok(())
}

/// Lets the running server make it.
fn register(args: &TokenArgs, create: &TokenCreateArgs) -> Result<(), Failure> {
    let lives_ms = check(create)?;
    let mut body = json!({"name": name_of(create), "roles": create.roles, "source_ids": create.sources});
    for (key, value) in [
        ("expires_in_ms", lives_ms.map(Value::from)),
        ("requests_per_second", create.requests_per_second.map(Value::from)),
        ("samples_per_second", create.samples_per_second.map(Value::from)),
    ] {
        if let Some(value) = value {
            body[key] = value;
        }
    }
    let bytes = body.to_string().into_bytes();
    let answer = client::send(Method::POST, &args.server, PATH, Some(("application/json", bytes)))?.success()?;
    match args.server.output {
        Output::Json => println!("{}", answer.json()?),
        Output::Table => println!("{}", answer.json()?["token"].as_str().unwrap_or_default()),
    }
    Ok(())
}

fn list(args: &TokenArgs) -> Result<(), Failure> {
    let answer = client::send(Method::GET, &args.server, PATH, None)?.success()?.json()?;
    if args.server.output == Output::Json {
        println!("{answer}");
        return Ok(());
    }
    let words = |value: &Value| {
        let all: Vec<&str> = value.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        all.join(", ")
    };
    let row = |token: &Value| {
        let text = |name: &str| token[name].as_str().unwrap_or("-").to_owned();
        let (roles, sources) = (words(&token["roles"]), words(&token["source_ids"]));
        vec![text("name"), roles, sources, text("expires"), text("sha256_8"), text("origin")]
    };
    let rows = answer.as_array().into_iter().flatten().map(row).collect();
    table::print(&["name", "roles", "sources", "expires", "sha256", "from"], rows);
    Ok(())
}
