//! Question: what does a shard pay to find the channels that have run out among a million that have not?
//! Unit: milliseconds of CPU per second of the shard's time.
//!
//! One shard, driven without sockets under a clock of its own, with a turn every 10 ms. `attached`: somebody is attached
//! to each channel, and nobody publishes. `used`: the same, and a message is published to each once a minute, which is
//! measured with it. `left`: one message was published to each, all within two minutes, and nobody is attached; each is
//! forgotten two minutes after its message.
use std::sync::Arc;

use clap::Parser;
use ringcast::ably::{
    Accepted, ApiKey, Capability, ChannelName, ChannelParams, Data, Directory, Draft, Format,
    Identity, Modes, Params, Publisher, validate,
};
use ringcast::base::{Entropy, Now};
use ringcast::channel::ChannelKey;
use ringcast::channel::home::StreamRef;
use ringcast::channel::log::TransportRef;
use ringcast::channel::view::View;
use ringcast::shard::{Mail, ReturnAddress, Shard, ShardConfig};
use ringcast::sys::rusage::process_cpu_us;

/// Between two turns, in milliseconds.
const TURN_MS: u64 = 10;

/// In which all channels are used once, in milliseconds.
const ROUND_MS: u64 = 60_000;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 1_000_000)]
    channels: usize,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

struct Host {
    shard: Shard,
    now: Now,
    channels: Vec<ChannelKey>,
}

impl Host {
    fn new(channels: usize) -> Host {
        let mut config = ShardConfig { channels_max: channels, ..ShardConfig::default() };
        config.history.shard_bytes_max = 1 << 40;
        let key: ApiKey = "app.key:secret".parse().expect("well-formed");
        let directory = Arc::new(Directory::of_keys([(key, Capability::all())]));
        let mut counter = 0_u8;
        let entropy = Entropy::new(move |page| {
            page.fill_with(|| {
                counter = counter.wrapping_mul(5).wrapping_add(3);
                counter
            });
        });
        let now = Now { mono_ms: 0, unix_ms: 1_700_000_000_000 };
        let shard = Shard::new(config, directory, 0, 2, entropy, now);
        let key = |number: usize| ChannelKey::new("app", &format!("room-{number}"));
        Host { shard, now, channels: (0..channels).map(key).collect() }
    }

    fn attach(&mut self, number: usize) {
        let channel = self.channels[number].clone();
        let name = ChannelName::parse("room").expect("valid");
        let view = View::of(&name, Modes::default(), &ChannelParams::default());
        let stream = StreamRef { index: number as u32, generation: 0 };
        let (format, display_name) = (Format::Json, channel.name().into());
        let mail = Mail::Subscribe { channel, display_name, format, view, stream };
        self.shard.handle_mail(1, mail);
    }

    fn publish(&mut self, number: usize) {
        let publisher = Publisher {
            id: format!("client:{number}"),
            connection_id: None,
            identity: &Identity::Wildcard,
            capability: &Capability::all(),
            has_mutable_messages: false,
        };
        let draft = Draft { data: Data::Text("x".into()), ..Draft::default() };
        let params = Params::default();
        let accepted: Accepted =
            validate("room", Some(vec![draft]), &params, &publisher, 65_536).expect("valid");
        let transport = TransportRef { index: 0, generation: 0 };
        let reply_to = ReturnAddress { shard: 1, transport, request: 0 };
        let channel = self.channels[number].clone();
        self.shard.handle_mail(1, Mail::Publish { reply_to, channel, accepted });
    }

    fn turn(&mut self) {
        self.shard.handle_timeout();
        self.shard.settle();
        while self.shard.poll_mail(1).is_some() {}
        self.now.mono_ms += TURN_MS;
        self.now.unix_ms += TURN_MS;
        self.shard.begin_turn(self.now);
    }

    /// Runs for so long, and does something with the next channels before each turn, with all of them in a round of
    /// `round_ms`.
    fn run(&mut self, for_ms: u64, round_ms: u64, act: impl Fn(&mut Host, usize)) {
        let count = self.channels.len();
        let channels = |turn: u64| (turn * TURN_MS) as usize * count / round_ms as usize;
        for turn in 0..for_ms / TURN_MS {
            for number in channels(turn)..channels(turn + 1) {
                act(self, number % count);
            }
            self.turn();
        }
    }

    /// The same, and shows what it has cost.
    fn measure(&mut self, name: &str, for_ms: u64, round_ms: u64, act: impl Fn(&mut Host, usize)) {
        let before_us = process_cpu_us();
        self.run(for_ms, round_ms, act);
        let milliseconds = (process_cpu_us() - before_us) as f64 / for_ms as f64;
        let open = self.shard.gauges().channels;
        println!("{name}: {milliseconds:.2} ms a second, then {open} channels are open");
    }
}

fn main() {
    let Args { channels, bench: _ } = Args::parse();
    let mut host = Host::new(channels);
    host.run(ROUND_MS, ROUND_MS, Host::attach);
    host.measure("attached", ROUND_MS, ROUND_MS, |_, _| {});
    host.run(3 * ROUND_MS, ROUND_MS, Host::publish);
    host.measure("used", ROUND_MS, ROUND_MS, Host::publish);
    let mut host = Host::new(channels);
    host.run(2 * ROUND_MS, 2 * ROUND_MS, Host::publish);
    host.measure("left", 2 * ROUND_MS, ROUND_MS, |_, _| {});
    host.measure("afterwards", 10_000, ROUND_MS, |_, _| {});
}
