//! What a file may say, and what is said of one that may not.

use super::*;
use crate::ably::Ack;
use crate::config::units::{KIB, MIB};
use crate::hooks::Sink;

fn refusal(text: &str) -> String {
    Config::parse("r.toml", text).expect_err("must be refused").to_string()
}

#[test]
fn cores_have_sizes_of_their_own() {
    let text = "[server]\nshards = 1\n[[cores]]\ncpu = 0\nring_entries = 128\nbusy_poll_us = 50\n";
    let config = Config::parse("r.toml", text).unwrap();
    assert_eq!(config.core_overrides[0].place, "r.toml:3");
    let of_core = config.core_overrides[0].clone().into_override();
    assert_eq!((of_core.ring_entries, of_core.busy_poll_us), (Some(128), Some(50)));
    assert_eq!(of_core.connections_max, None);
    for (text, expected) in [
        ("[[cores]]\nring_entries = 64", "1:1: `cores.cpu`: is missing"),
        ("[[cores]]\ncpu = 1\n[[cores]]\ncpu = 1", "3:1: `cores`: CPU 1 is there twice"),
        (
            "[[cores]]\ncpu = 1\nring_entries = 65",
            "3:16: `cores.ring_entries`: 65 is not a power of two from 64 to 32768",
        ),
        (
            "[[cores]]\ncpu = 1\nbacklog = 65",
            "3:1: unknown key `cores.backlog`; known here: `cpu`, `connections_max`, `ring_entries`, \
             `table_entries`, `receive_buffers`, `receive_buffer_bytes`, `busy_poll_us`",
        ),
    ] {
        assert_eq!(refusal(text), format!("r.toml:{expected}"));
    }
    let nowhere = Config::parse("r.toml", "[[cores]]\ncpu = 60000").unwrap();
    let error = nowhere.placement().unwrap_err().to_string();
    assert!(error.starts_with("r.toml:1: `cores.cpu`: no shard runs on CPU 60000"), "{error}");
}

#[test]
fn secrets_come_from_files_credentials_and_variables() {
    // The test runner's environment has these, and nobody may set one while threads run.
    let text = "[[keys]]\nkey_env = \"CARGO_PKG_NAME\"";
    let expected = "2:11: `keys.key_env`: in the variable CARGO_PKG_NAME: wants appId.keyId:secret";
    assert_eq!(refusal(text), format!("r.toml:{expected}"));
    let text = "[[keys]]\nkey_env = \"NO_SUCH_VARIABLE\"";
    let expected = "2:11: `keys.key_env`: the variable `NO_SUCH_VARIABLE` is not set";
    assert_eq!(refusal(text), format!("r.toml:{expected}"));
    let text = "[[keys]]\nkey = \"a.b:c\"\nkey_env = \"CARGO_PKG_NAME\"";
    assert!(refusal(text).contains("CARGO_PKG_NAME"));
    let path = units::secret_path_in(None, Path::new("/etc/x"), "credential:key");
    assert!(path.unwrap_err().contains("CREDENTIALS_DIRECTORY"));
    let credentials = Some("/run/c".into());
    for (text, expected) in
        [("credential:key", "/run/c/key"), ("a.key", "/etc/x/a.key"), ("/b.key", "/b.key")]
    {
        let path = units::secret_path_in(credentials.clone(), Path::new("/etc/x"), text);
        assert_eq!(path.unwrap(), Path::new(expected));
    }
    for name in ["credential:", "credential:../key", "credential:a/b"] {
        assert!(units::secret_path_in(credentials.clone(), Path::new(""), name).is_err());
    }
}

#[test]
fn an_empty_file_is_the_default() {
    let config = Config::parse("r.toml", "").unwrap();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
}

#[test]
fn a_full_socket_buffer_counts_as_lag_but_one_frame_fits_beside_it() {
    let lag_bytes_max = |text: &str| {
        let (server, _) = Config::parse("r.toml", text).unwrap().into_server().unwrap();
        server.shard.lag_bytes_max as usize
    };
    assert_eq!(lag_bytes_max(""), MIB - 128 * KIB);
    let large = "[socket]\nsend_buffer_bytes = \"2MiB\"";
    assert_eq!(lag_bytes_max(large), 512 * KIB);
}

#[test]
fn the_reference_documents_every_key_with_its_default() {
    let reference = include_str!("../../docs/configuration.md");
    let example = reference.split("```toml\n").nth(1).expect("opens with the whole file");
    let example = example.split("```").next().expect("split yields at least one part");
    let mut config = Config::parse("configuration.md", example).unwrap();
    let default = Config::default();
    assert_eq!((config.keys.len(), config.apps.len()), (2, 1), "the examples");
    check_rule_defaults(&config.rules);
    (config.keys, config.apps, config.rules) = (vec![], vec![], vec![]);
    assert_eq!(config.state_dir.take(), Some(PathBuf::from("/var/lib/ringcast")));
    assert_eq!(config.admin_token_file.take(), Some(PathBuf::from("admin.token")));
    let TlsSettings { certificate_file, key_file, client_ca_file, certificates, .. } =
        &mut config.tls;
    assert_eq!(certificates.len(), 1, "the example");
    certificates.clear();
    for (file, path) in [
        (certificate_file, "tls/certificate.pem"),
        (key_file, "tls/key.pem"),
        (client_ca_file, "tls/clients.pem"),
    ] {
        assert_eq!(file.take(), Some(PathBuf::from(path)));
    }
    assert_eq!(config.hooks_ca_file.take(), Some(PathBuf::from("ca.pem")));
    // Their defaults depend on the machine.
    (config.cores, config.shards, config.limits.channels_max) = (None, None, None);
    assert_eq!(config.core_overrides.len(), 1, "the example");
    config.core_overrides.clear();
    assert_eq!(format!("{config:?}"), format!("{default:?}"));
    for key in example.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key) {
        let key = key.trim_start_matches("# ");
        assert!(reference.contains(&format!("| `{key}` |")), "`{key}` has no row in a table");
    }
}

fn check_rule_defaults(rules: &[RuleConfig]) {
    let least = "[[rules]]\nid = \"least\"\napp = \"shop\"\nchannel = \"^orders:\"\n\
                 url = \"https://example.com/orders\"";
    let least = Config::parse("r.toml", least).unwrap().rules.remove(0);
    let [full] = rules else { panic!("one example") };
    assert_eq!(full.signing_key.as_deref(), Some("shop.key"));
    let mut full = RuleConfig { signing_key: None, id: "least".into(), ..full.clone() };
    let Sink::Http(http) = &mut full.target.sink else { panic!("has a url") };
    assert_eq!(http.headers, [("x-secret".to_owned(), "hush".to_owned())]);
    http.headers.clear();
    assert_eq!(format!("{full:?}"), format!("{least:?}"));
}

#[test]
fn rules_that_cannot_work_are_refused() {
    let rule = |more: &str| {
        let text = "[[rules]]\nid = \"r\"\napp = \"a\"\nchannel = \"\"";
        refusal(&format!("{text}\n{more}"))
    };
    for (more, expected) in [
        ("", "1:1: `rules.url`: is missing"),
        (
            "url = \"http://10.0.0.1/\"",
            "5:7: `rules.url`: 10.0.0.1 is not a public address; say `allow_private = true` if it is meant",
        ),
        ("url = \"ftp://example.com/\"", "5:7: `rules.url`: wants http:// or https://"),
        (
            "source = \"channel.mesage\"",
            "5:10: `rules.source`: `channel.mesage` is not known; did you mean `channel.message`?",
        ),
        (
            "url = \"https://example.com/\"\nmode = \"batch\"\nenveloped = false",
            "7:13: `rules.enveloped`: is true where `mode` is \"batch\"",
        ),
        ("headers = { \"a b\" = \"c\" }", "5:11: `rules.headers`: `a b` is no name of a header"),
        (
            "url = \"https://example.com/\"\nclient_key_file = \"key.pem\"",
            "1:1: `rules.client_certificate_file`: is missing",
        ),
        (
            "ca_file = \"nowhere.pem\"",
            "5:11: `rules.ca_file`: cannot read nowhere.pem: No such file or directory (os error 2)",
        ),
        (
            "url = \"https://example.com/\"\nlambda = { function = \"f\" }",
            "6:10: `rules.lambda`: has no place beside another target: keep one of them",
        ),
        (
            "lambda = { function = \"f g\" }",
            "5:23: `rules.lambda.function`: wants the name of a function, or its ARN",
        ),
        ("lambda = { function = \"f\" }", "1:1: `rules.aws.region`: is missing"),
        (
            "lambda = { function = \"f\" }\naws = { region = \"eu-west-1\", external_id = \"x\" }",
            "6:7: `rules.aws.role_arn`: is missing",
        ),
        (
            "lambda = { function = \"f\" }\naws = { region = \"eu-west-1\" }\nformat = \"msgpack\"",
            "7:10: `rules.format`: is \"json\" for a function",
        ),
        (
            "nats = { servers = [\"nats://127.0.0.1\"], subject = \"x\" }",
            "5:20: `rules.nats.servers`: 127.0.0.1 is not a public address; say `allow_private = true` if it is meant",
        ),
        (
            "nats = { servers = [\"nats://example.com\"], subject = \"a.*\" }",
            "5:54: `rules.nats.subject`: wants a subject, such as \"chat.{channel}\"",
        ),
        (
            "nats = { servers = [\"nats://example.com\"], subject = \"a\" }\nsigning_key = \"a.b\"",
            "6:15: `rules.signing_key`: wants a `url`",
        ),
    ] {
        assert_eq!(rule(more), format!("r.toml:{expected}"));
    }
    let error = refusal("[[rules]]\nid = \"r\"\napp = \"a\"\nchannel = \"(?=x)\"");
    assert!(error.starts_with("r.toml:4:11: `rules.channel`: error: look-around"), "{error}");
    assert!(error.ends_with("(40035/400)"), "{error}");
}

#[test]
fn functions_and_subjects_are_targets_and_hide_their_secrets() {
    let config = Config::parse(
        "r.toml",
        "[[rules]]\nid = \"f\"\napp = \"a\"\nchannel = \"\"\n\
         lambda = { function = \"arn:aws:lambda:eu-west-1:123456789012:function:mask:live\" }\n\
         aws = { access_key_id = \"AKID\", secret_access_key = \"hush\" }\n\
         [[rules]]\nid = \"n\"\napp = \"a\"\nchannel = \"\"\n\
         nats = { servers = [\"tls://example.com\"], subject = \"a.{channel}\", token = \"hush\" }",
    )
    .unwrap();
    let Sink::Lambda(lambda) = &config.rules[0].target.sink else { panic!("a function") };
    assert_eq!((&*lambda.aws.region, lambda.qualifier.as_deref()), ("eu-west-1", Some("live")));
    assert!(matches!(&config.rules[1].target.sink, Sink::Nats(nats) if !nats.jetstream));
    assert!(!format!("{config:?}").contains("hush"));
    assert_eq!(config.rules, config.clone().rules);
}

#[test]
fn a_rule_signs_with_a_key_that_is_there() {
    let text = "[[apps]]\nid = \"a\"\n[[apps.rules]]\nid = \"r\"\nchannel = \"\"\n\
                url = \"http://127.0.0.1/\"\nallow_private = true\nsigning_key = \"a.k\"\n";
    let error = Config::parse("r.toml", text).unwrap().hooks().unwrap_err().to_string();
    assert_eq!(error, "the rule `r` signs with `a.k`, which is no key here");
    let with_key = format!("{text}[[keys]]\nkey = \"a.k:hush\"\n");
    let hooks = Config::parse("r.toml", &with_key).unwrap().hooks().unwrap();
    assert_eq!(&*hooks.rules[0].rule.app_id, "a");
    assert!(!format!("{hooks:?}").contains("hush"));
}

#[test]
fn unknown_keys_are_refused_with_place_and_suggestion() {
    assert_eq!(
        refusal("[server]\nlisten = \"127.0.0.1:1\"\nshard = 2\n"),
        "r.toml:3:1: unknown key `server.shard`; did you mean `shards`?"
    );
    assert_eq!(
        refusal("[sockets]\nbacklog = 1\n"),
        "r.toml:1:2: unknown key `sockets`; did you mean `socket`?"
    );
    assert_eq!(
        refusal("[test]\ncolour = true\n"),
        "r.toml:2:1: unknown key `test.colour`; known here: `echo`, `stall`"
    );
    assert_eq!(
        refusal("[[keys]]\nkey = \"a.b:c\"\ncapabilty = {}\n"),
        "r.toml:3:1: unknown key `keys.capabilty`; did you mean `capability`?"
    );
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (text, expected) in [
        ("[server]\nshards = 0", "2:10: `server.shards`: 0 is not from 1 to 256"),
        (
            "[socket]\nring_entries = 1000",
            "2:16: `socket.ring_entries`: 1000 is not a power of two from 64 to 32768",
        ),
        ("[socket]\nbacklog = \"many\"", "2:11: `socket.backlog`: wants an integer"),
        (
            "[limits]\nmessage_bytes_max = \"1GiB\"",
            "2:21: `limits.message_bytes_max`: 1GiB is not from 1KiB to 16MiB",
        ),
        (
            "[limits]\nmessage_bytes_max = \"64 kilo\"",
            "2:21: `limits.message_bytes_max`: wants bytes, such as 4096 or \"64KiB\"",
        ),
        (
            "[connection]\nidle_interval = 15",
            "2:17: `connection.idle_interval`: wants a duration, such as \"500ms\" or \"15s\"",
        ),
        ("[history]\nretention = \"25h\"", "2:13: `history.retention`: 25h is not from 1s to 24h"),
        (
            "[log]\nwaiting_bytes_max = \"9MiB\"",
            "2:21: `log.waiting_bytes_max`: 9MiB is not from 64KiB to 8MiB",
        ),
        (
            "[server]\nlisten = \"localhost\"",
            "2:10: `server.listen`: wants \"off\" or an address and port, such as \"127.0.0.1:8080\"",
        ),
        (
            "[limits]\nframe_bytes_max = 4096",
            "2:19: `limits.frame_bytes_max`: is smaller than message_bytes_max",
        ),
        (
            "[server]\norigins = [\"https://a.b/c\"]",
            "2:11: `server.origins`: `https://a.b/c` is no origin; one has a scheme, a host and no path",
        ),
        (
            "[admin]\nlisten = \"0.0.0.0:1\"",
            "2:10: `admin.listen`: 0.0.0.0:1 can be reached from elsewhere, so it takes a token_file",
        ),
        ("server = 1", "1:10: `server`: wants a table"),
    ] {
        assert_eq!(refusal(text), format!("r.toml:{expected}"));
    }
}

#[test]
fn text_that_is_not_toml_is_refused_with_its_place() {
    let error = refusal("[server]\nlisten = \n");
    assert!(error.starts_with("r.toml:2:"), "{error}");
}

#[test]
fn no_prefix_of_a_file_panics() {
    let text =
        "[server]\ncores = [0, 1]\n[[keys]]\nkey = \"a.b:\u{e9}\"\n[limits]\nhead_timeout=\"9s\"\n";
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = Config::parse("r.toml", &text[..end]);
    }
}

#[test]
fn keys_carry_their_capability_and_hide_their_secret() {
    let config = Config::parse(
        "r.toml",
        "[[keys]]\nkey = \"app.key:hush\"\n\
         [[keys]]\nkey = \"app.sub:hush\"\ncapability = { \"news:*\" = [\"subscribe\"] }",
    )
    .unwrap();
    assert_eq!(config.keys[0].capability["[*]*"], ["*"]);
    assert_eq!(config.keys[1].capability["news:*"], ["subscribe"]);
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn keys_that_cannot_work_are_refused_without_showing_them() {
    let error = refusal("[[keys]]\nkey = \"hush\"");
    assert_eq!(error, "r.toml:2:7: `keys.key`: wants appId.keyId:secret");
    let error = refusal("[[keys]]\nkey = \"a.b:c\"\ncapability = { \"*\" = [\"publsh\"] }");
    assert_eq!(
        error,
        "r.toml:3:14: `keys.capability`: unknown operation `publsh`; did you mean `publish`?"
    );
    let error = refusal("[[keys]]\nkey = \"a.b:c\"\n[[keys]]\nkey = \"a.b:d\"");
    assert_eq!(error, "r.toml:3:1: `keys`: the key `a.b` is there twice");
    let error = refusal("[[keys]]\n");
    assert_eq!(error, "r.toml:1:1: `keys.key`: is missing, and so are `key_file` and `key_env`");
}

#[test]
fn apps_have_their_own_keys_and_rules() {
    let config = Config::parse(
        "r.toml",
        "[[keys]]\nkey = \"shop.all:hush\"\n\
         [[keys]]\nkey = \"plain.all:hush\"\n\
         [[apps]]\nid = \"shop\"\npresence_members_max = 50\n\
         [[apps.keys]]\nkey = \"shop.tokens:hush\"\nrevocable_tokens = true\n\
         [[apps.namespaces]]\nid = \"chat\"\nmutable_messages = true\n\
         [[apps.namespaces]]\nid = \"team\"\nidentified = true\n\
         [[apps]]\nid = \"empty\"\n",
    )
    .unwrap();
    let directory = config.directory().unwrap();
    assert_eq!(directory.app_count(), 3);
    let shop = directory.app("shop").expect("has a table");
    assert_eq!(shop.limits().presence_members_max, 50);
    assert!(shop.namespace("chat:room").mutable_messages);
    assert!(!shop.namespace("chat:room").authenticated);
    assert!(shop.namespace("team").authenticated);
    assert!(directory.key("shop.tokens").expect("is there").has_revocable_tokens());
    assert!(!directory.key("shop.all").expect("is there").has_revocable_tokens());
    assert!(directory.key("plain.all").is_ok());
}

#[test]
fn a_namespace_that_is_kept_says_when_it_confirms_and_has_a_place() {
    let text = |namespace: &str| {
        format!("[[apps]]\nid = \"shop\"\n[[apps.namespaces]]\nid = \"a\"\n{namespace}")
    };
    let parse = |namespace: &str| Config::parse("r.toml", &text(namespace));
    for (ack, expected) in [
        ("", Ack::Written),
        ("ack = \"memory\"", Ack::Memory),
        ("ack = \"written\"", Ack::Written),
        ("ack = \"fsynced\"", Ack::Fsynced),
    ] {
        let mut config = parse(&format!("persist = true\n{ack}")).expect("valid");
        let error = config.directory().expect_err("without a place").to_string();
        assert!(error.contains("wants a `server.state_dir`"), "{error}");
        config.state_dir = Some("/var/lib/ringcast".into());
        let directory = config.directory().expect("with a place");
        let shop = directory.app("shop").expect("configured");
        let namespace = shop.namespace("a:room");
        assert_eq!((namespace.persisted, namespace.ack), (true, expected));
    }
    for (wrong, message) in [
        ("ack = \"written\"", "`apps.namespaces.ack`: goes with `persist = true`"),
        ("ack = \"disk\"", "`apps.namespaces.ack`: wants `memory`, `written` or `fsynced`"),
    ] {
        let error = parse(wrong).expect_err("against a rule").to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn apps_that_cannot_work_are_refused() {
    for (text, expected) in [
        ("[[apps]]\n", "1:1: `apps.id`: is missing"),
        ("[[apps]]\nid = \"a.b\"", "2:6: `apps.id`: wants letters, digits, `-` and `_`"),
        ("[[apps]]\nid = \"a\"\n[[apps]]\nid = \"a\"", "3:1: `apps`: the app `a` is there twice"),
        (
            "[[apps]]\nid = \"a\"\n[[apps.keys]]\nkey = \"b.c:d\"",
            "3:1: `apps.keys`: the key `b.c` is of another app",
        ),
        (
            "[[apps]]\nid = \"a\"\n[[apps.namespaces]]\nid = \"a:b\"",
            "4:6: `apps.namespaces.id`: wants a name without `:`",
        ),
        (
            "[[apps]]\nid = \"a\"\n[[apps.namespaces]]\nmutable = true",
            "4:1: unknown key `apps.namespaces.mutable`; known here: `id`, `mutable_messages`, `identified`, `persist`, `ack`",
        ),
        (
            "[[apps]]\nid = \"a\"\nnamespaces = 1",
            "3:14: `apps.namespaces`: wants tables: [[apps.namespaces]], once for each",
        ),
    ] {
        assert_eq!(refusal(text), format!("r.toml:{expected}"));
    }
}
