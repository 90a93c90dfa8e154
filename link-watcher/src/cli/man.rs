//! Manual pages: of the program with all its commands (8), of one command, of the configuration (5).

use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;
use roff::{Inline, Roff, bold, italic, roman};

use super::{Arguments, Exit, Failure, generate, output::print};
use crate::config::reference::SCHEMAS;

/// Administrators' commands have section 8, see man-pages(7).
const SECTION: &str = "8";
/// Which page is that of the configuration.
pub(super) const CONFIGURATION: &str = "link-watcher.toml";

/// `man`: the program's page, or the one of this name.
pub(super) fn run(page: Option<&str>) -> Result<(), Failure> {
    let mut whole = Arguments::command();
    // Fills in what commands inherit, such as --config.
    whole.build();
    let text = match page {
        None => program(&whole),
        Some(CONFIGURATION) => Ok(configuration()),
        Some(name) => match whole.find_subcommand(name) {
            Some(command) => rendered(|text| Man::new(command.clone()).section(SECTION).render(text)),
            None => {
                let why = format!(
                    "link-watcher: there is no page {name}; there are those of the commands (link-watcher --help) and \
                     {CONFIGURATION}"
                );
                return Err(Failure::new(Exit::Usage, why));
            }
        },
    };
    print(&text.map_err(|error| Failure::new(Exit::Failed, format!("link-watcher: {error}")))?)
}

fn rendered(render: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> std::io::Result<String> {
    let mut text = Vec::new();
    render(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// link-watcher(8): one page with all commands, so that one search finds everything.
fn program(whole: &Command) -> std::io::Result<String> {
    let man = Man::new(whole.clone()).section(SECTION).title("link-watcher");
    rendered(|text| {
        man.render_title(text)?;
        man.render_name_section(text)?;
        man.render_synopsis_section(text)?;
        man.render_description_section(text)?;
        man.render_options_section(text)?;
        let mut roff = Roff::new();
        roff.control("SH", ["COMMANDS"]);
        for command in whole.get_subcommands() {
            describe(&mut roff, "link-watcher", command);
        }
        for (title, entries) in SECTIONS {
            roff.control("SH", [*title]);
            for (term, meaning) in *entries {
                entry(&mut roff, [bold(*term)], meaning);
            }
        }
        roff.control("SH", ["SEE ALSO"]);
        roff.text([
            bold(CONFIGURATION),
            roman("(5), "),
            bold("ip-route"),
            roman("(8), "),
            bold("bpftool"),
            roman("(8)"),
        ]);
        roff.to_writer(text)
    })
}

/// What the page has besides commands and options.
const SECTIONS: &[(&str, &[(&str, &str)])] = &[
    (
        "SIGNALS",
        &[
            ("SIGTERM, SIGINT", "Stop; a second one: at once."),
            ("SIGHUP", "Read the configuration again."),
            ("SIGUSR1", "Write the status to the log."),
            ("SIGUSR2", "Move every peer to its next usable link."),
        ],
    ),
    (
        "EXIT STATUS",
        &[
            ("0", "Done."),
            ("1", "Failed."),
            ("2", "Wrong usage."),
            ("69", "No daemon answers on the control socket."),
            ("77", "A privilege is missing; it is named."),
            ("78", "The configuration is wrong."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/link-watcher/link-watcher.toml", "The configuration."),
            ("/run/link-watcher/control.sock", "Where commands reach the daemon."),
            ("/sys/fs/bpf/link-watcher/", "What the kernel program knows; bpftool map dump pinned shows it."),
        ],
    ),
];

/// A command and those below it, each with its options.
fn describe(roff: &mut Roff, above: &str, command: &Command) {
    let name = format!("{above} {}", command.get_name());
    let below: Vec<_> = command.get_subcommands().filter(|command| command.get_name() != "help").collect();
    if !below.is_empty() {
        below.into_iter().for_each(|command| describe(roff, &name, command));
        return;
    }
    if command.get_name() == "help" {
        return;
    }
    let own = |arg: &&Arg| !arg.is_global_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let positionals = command.get_positionals().map(|arg| {
        let word = value_of(arg);
        if arg.is_required_set() { format!(" {word}") } else { format!(" [{word}]") }
    });
    let options = command.get_opts().filter(own).map(|arg| format!(" [{}]", option(arg)));
    let flags = command.get_arguments().filter(|arg| !arg.is_positional() && !arg.get_action().takes_values());
    let flags = flags.filter(own).map(|arg| format!(" [{}]", option(arg)));
    let usage: String = flags.chain(options).chain(positionals).collect();
    roff.control("SS", [format!("{name}{usage}").as_str()]);
    roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
    for arg in command.get_arguments().filter(own) {
        let term = if arg.is_positional() { italic(value_of(arg)) } else { bold(option(arg)) };
        let mut meaning = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> = match arg.get_action().takes_values() {
            true => arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect(),
            false => Vec::new(),
        };
        if !values.is_empty() {
            meaning.push_str(&format!(": {}", values.join(", ")));
        }
        if let [default] = arg.get_default_values()
            && arg.get_action().takes_values()
        {
            meaning.push_str(&format!(" [default: {}]", default.to_string_lossy()));
        }
        entry(roff, [term], &meaning);
    }
}

fn entry(roff: &mut Roff, term: impl Into<Vec<Inline>>, meaning: &str) {
    roff.control("TP", []).text(term).text([roman(meaning)]);
}

fn value_of(arg: &Arg) -> String {
    arg.get_value_names().map_or_else(
        || arg.get_id().to_string(),
        |names| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    )
}

fn option(arg: &Arg) -> String {
    let name = arg.get_long().map_or_else(|| arg.get_id().to_string(), |long| format!("--{long}"));
    if arg.get_action().takes_values() { format!("{name} {}", value_of(arg)) } else { name }
}

/// link-watcher.toml(5), from the table that the reader has.
fn configuration() -> String {
    let mut roff = Roff::new();
    let version = concat!("link-watcher ", env!("CARGO_PKG_VERSION"));
    roff.control("TH", [CONFIGURATION, "5", "", version]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{CONFIGURATION} - configuration of link-watcher(8)"))]);
    roff.control("SH", ["DESCRIPTION"]);
    roff.text([roman(
        "TOML. Unknown keys are refused. Times are texts such as \"10ms\", \"1s\", \"2m\"; paths are relative to the \
         directory of the file. `link-watcher check` finds what is wrong and says what would be right; `link-watcher \
         generate config` prints examples.",
    )]);
    roff.control("SH", ["SECTIONS"]);
    for schema in SCHEMAS {
        roff.control("SS", [schema.title]);
        roff.text([roman(schema.about)]);
        if let Some(other) = schema.told_by {
            roff.text([roman(format!("The keys are those of {other}."))]);
            continue;
        }
        for key in schema.keys {
            let meaning = format!("{}. Left out: {}.", key.told(), key.default_words());
            entry(&mut roff, [bold(key.name), roman(" = "), italic(key.value())], &meaning.replace('`', ""));
        }
    }
    for (title, example) in [
        ("EXAMPLE: TWO ROUTERS JOINED BY SEVERAL LINKS", generate::PEER_EXAMPLE),
        ("EXAMPLE: SEVERAL WAYS TO THE INTERNET", generate::UPLINKS_EXAMPLE),
    ] {
        roff.control("SH", [title]);
        roff.control("nf", []);
        roff.text([roman(example)]);
        roff.control("fi", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([bold("link-watcher"), roman("(8)")]);
    roff.to_roff()
}
