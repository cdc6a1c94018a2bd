//! What the command line accepts, refuses, and says.

use super::*;
use crate::run::tools::Output;

/// A program's options: input files, an output.
#[derive(Args, Clone, Debug, PartialEq)]
struct Options {
    /// Files to read.
    #[arg(default_value = "in.json")]
    input: Vec<PathBuf>,
    /// Where to write.
    #[arg(long)]
    output: Option<PathBuf>,
}

fn read<O: Args>(line: &str) -> Result<(O, Config, LogOptions), ExitNow> {
    let parsed = parse(std::iter::once("dir/cart_join").chain(line.split_whitespace()).map(OsString::from));
    parsed.map(|parsed| match parsed {
        Parsed::Run(options, config, log, _) => (options, config, log),
        Parsed::Tool(tool, ..) => panic!("{line:?} is {tool:?}"),
    })
}

fn config(line: &str) -> Config {
    read::<Options>(line).unwrap_or_else(|exit| panic!("{line:?} is refused: {}", exit.error)).1
}

fn refused<O: Args + std::fmt::Debug>(line: &str) -> String {
    let exit = read::<O>(line).expect_err(line);
    assert_eq!(exit.code, 64, "{line:?}");
    exit.error.to_string()
}

#[test]
fn clap_finds_nothing_wrong_with_the_options() {
    for with_tools in [false, true] {
        command::<Options>("cart_join", with_tools).expect("no clash").debug_assert();
    }
}

#[test]
fn defaults_are_the_documented_ones() {
    let (options, config, log) = read::<Options>("").expect("an empty line is fine");
    assert_eq!(options, Options { input: vec!["in.json".into()], output: None });
    assert_eq!((config.flow.as_str(), config.workers, config.recovery), ("cart_join", 1, None));
    assert_eq!((config.epoch_interval, config.stop_timeout), (Duration::from_secs(1), Duration::from_secs(10)));
    assert_eq!((config.key_groups, config.line_bytes_max, config.on_error), (128, 16 << 20, OnError::Fail));
    assert_eq!(log, LogOptions::default());
}

#[test]
fn ours_and_theirs_mix_in_any_order() {
    let line = "a.json -w 4 -r st -s 10ms --output out b.json --on-error skip --drop-state x --drop-state y -vv";
    let (options, config, log) = read::<Options>(line).expect("a right line");
    assert_eq!(options, Options { input: vec!["a.json".into(), "b.json".into()], output: Some("out".into()) });
    assert_eq!((config.workers, config.recovery), (4, Some("st".into())));
    assert_eq!((config.epoch_interval, config.on_error), (Duration::from_millis(10), OnError::Skip));
    assert_eq!((config.drop_steps, log.verbose), (vec!["x".to_owned(), "y".to_owned()], 2));
}

#[test]
fn durations_and_sizes_are_written_as_people_do() {
    let interval = |text: &str| config(&format!("-s {text}")).epoch_interval;
    assert_eq!(
        (interval("0"), interval("1ns"), interval("1h")),
        (Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(3600))
    );
    assert_eq!(interval("1year").as_secs() / 86_400, 365);
    let line = |text: &str| config(&format!("--max-line {text}")).line_bytes_max;
    assert_eq!((line("100"), line("64KiB"), line("16MiB")), (100, 64 << 10, 16 << 20));
    for wrong in
        ["-s 10", "-s soon", "-s -1s", "-s 99999999999999999999s", "--max-line lots", "--max-line 2GiB", "--max-line 0"]
    {
        refused::<Options>(wrong);
    }
}

#[test]
fn what_cannot_work_is_refused_with_a_reason() {
    assert!(refused::<Options>("-w 0").contains("at least 1"));
    assert!(refused::<Options>("-w 129").contains("128 key groups"));
    assert_eq!(config("-w 129 --key-groups 256").workers, 129);
    assert!(refused::<Options>("--key-groups 100").contains("power of two"));
    assert!(refused::<Options>("--key-groups 65536").contains("65536"));
    assert!(refused::<Options>("--on-error dead-letter").contains("--dead-letter FILE"));
    assert!(refused::<Options>("--on-error dead-letter --dead-letter -").contains("a file of their own"));
    assert!(refused::<Options>("--dead-letter x --retry x").contains("copy it first"));
    assert!(refused::<Options>("--store papyrus").contains("papyrus"));
    assert!(refused::<Options>("--wrokers 2").contains("--wrokers"));
}

#[test]
fn dead_letters_are_fed_in_again_by_a_run_like_any_other() {
    let (options, config, _) = read::<Options>("dead-letter retry mended a.json -w 2").expect("a right line");
    assert_eq!((options.input, config.retry, config.workers), (vec!["a.json".into()], Some("mended".into()), 2));
    let (options, config, _) = read::<Options>("dead-letter --dead-letter bad").expect("an input of that name");
    assert_eq!((options.input, config.dead_letters), (vec!["dead-letter".into()], Some("bad".into())));
}

#[test]
fn help_and_version_are_no_mistakes() {
    let help = read::<Options>("--help").expect_err("help ends the program");
    assert_eq!(help.code, 0);
    let text = help.error.to_string();
    assert!(text.contains("Where to write") && text.contains("--epoch-interval"), "{text}");
    assert!(!text.contains("engine's own"), "our doc comment is not the program's about:\n{text}");
    let version = read::<Options>("--version").expect_err("version ends the program");
    assert_eq!(version.code, 0);
    assert_eq!(version.error.to_string(), format!("cart_join (highwater {})\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_option_of_ours_has_an_environment_variable() {
    // What is hidden stands for a word of the command line, and is nobody's setting.
    for arg in EngineArgs::augment_args(Command::new("ours")).get_arguments().filter(|arg| !arg.is_hide_set()) {
        let id = arg.get_id().as_str().to_uppercase();
        assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(format!("HIGHWATER_{id}").as_str()));
    }
}

/// Runs itself again with variables set: they cannot be set in a process with threads.
#[test]
fn the_environment_is_weaker_than_the_command_line() {
    if std::env::var_os("HIGHWATER_WORKERS").is_some() {
        assert_eq!((config("").workers, config("-w 2").workers), (3, 2));
        let (_, config, log) = read::<Options>("").expect("right");
        assert_eq!((config.fresh, config.accept_new_input, log.verbose, log.quiet), (true, false, 2, false));
        assert_eq!(config.recovery, Some("st".into()));
        return;
    }
    let variables =
        [("WORKERS", "3"), ("FRESH", "1"), ("ACCEPT_NEW_INPUT", "no"), ("VERBOSE", "2"), ("RECOVERY", "st")];
    let ran = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "run::args::tests::the_environment_is_weaker_than_the_command_line"])
        .envs(variables.map(|(name, value)| (format!("HIGHWATER_{name}"), value)))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && text.contains("1 passed"), "{text}");
}

/// Defines a program with one option and tells what it is refused for.
macro_rules! clashing {
    ($(#[$arg:meta])* $name:ident) => {{
        #[derive(Args, Debug)]
        struct Clashing {
            $(#[$arg])*
            #[allow(dead_code)]
            $name: Option<String>,
        }
        refused::<Clashing>("")
    }};
}

#[test]
fn an_option_that_clashes_with_ours_is_refused_naming_both() {
    let long = clashing!(
        #[arg(id = "x", long = "workers")]
        threads
    );
    assert!(long.contains("own option --workers") && long.contains("highwater's -w, --workers"), "{long}");
    let short = clashing!(
        #[arg(short = 'w', long)]
        width
    );
    assert!(short.contains("-w, --width") && short.contains("(both -w)"), "{short}");
    let id = clashing!(recovery);
    assert!(id.contains("<recovery>") && id.contains("-r, --recovery"), "{id}");
    assert!(
        clashing!(
            #[arg(long, alias = "fresh")]
            anew
        )
        .contains("--fresh")
    );
    assert!(
        clashing!(
            #[arg(short = 'V')]
            volume
        )
        .contains("--version")
    );
    assert!(
        clashing!(
            #[arg(id = "y", long = "help")]
            more
        )
        .contains("--help")
    );
}

fn tool(line: &str) -> (Tool, Config) {
    let argv = std::iter::once("dir/cart_join").chain(line.split_whitespace()).map(OsString::from);
    match parse::<Options>(argv) {
        Ok(Parsed::Tool(tool, config, _)) => (tool, config),
        Ok(Parsed::Run(options, ..)) => panic!("{line:?} runs with {options:?}"),
        Err(exit) => panic!("{line:?} is refused: {}", exit.error),
    }
}

/// A tool comes before any input; after one its name is an input, and as the value of an option a value.
#[test]
fn a_tool_is_meant_where_no_option_and_no_input_claims_its_name() {
    let (tool, config) = tool("verify -r st --json");
    assert_eq!((tool, config.recovery), (Tool::Verify(Output { json: true }), Some("st".into())));
    let (tool, config) = self::tool("-r state verify --json");
    assert_eq!((tool, config.recovery), (Tool::Verify(Output { json: true }), Some("state".into())));
    assert_eq!(read::<Options>("-r state a.json").expect("a run").1.recovery, Some("state".into()));
    let (options, config, _) = read::<Options>("a.json -r state verify").expect("a run");
    assert_eq!(
        (options.input, config.recovery),
        (["a.json", "verify"].map(PathBuf::from).to_vec(), Some("state".into()))
    );
    assert_eq!(read::<Options>("./verify").expect("a file").0.input, ["./verify"].map(PathBuf::from));
}

/// What a flow needs, a tool does not.
#[test]
fn a_tool_needs_nothing_of_the_flow() {
    #[derive(Args, Clone, Debug)]
    struct Demanding {
        #[arg(required = true)]
        input: Vec<PathBuf>,
    }
    assert!(matches!(parse::<Demanding>(["p", "verify"].map(OsString::from)), Ok(Parsed::Tool(..))));
    refused::<Demanding>("-r st");
}

#[test]
fn a_command_of_the_program_that_clashes_is_named() {
    #[derive(clap::Subcommand, Clone, Debug)]
    enum Theirs {
        Verify,
    }
    #[derive(Args, Clone, Debug)]
    struct Clashing {
        #[command(subcommand)]
        _what: Option<Theirs>,
    }
    assert!(refused::<Clashing>("").contains("`verify` clashes"));
}

#[test]
fn a_past_is_measured_in_epochs_or_time() {
    assert_eq!(config("").history, None);
    assert_eq!(config("--history 1000").history, Some(History::Epochs(1000)));
    assert_eq!(config("--history 7d").history, Some(History::Time(Duration::from_secs(7 * 86_400))));
    refused::<Options>("--history long");
}
