#include "tools/sluicectl/options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <sstream>

#include "tools/common/size.h"
#include "tools/sluicectl/completion.h"
#include "tools/sluicectl/duration.h"
#include "tools/sluicectl/exit_codes.h"

namespace sluice::tools {
namespace {

constexpr const char* kDescription =
    "Looks into sluiced, the KV-cache memory daemon of this node, and changes what it does.";

constexpr const char* kFooter =
    "Text is for people and may change. Scripts use --json, whose documents name their schema and "
    "only\n"
    "gain fields, and the exit code:\n"
    "  0    done\n"
    "  1    failed\n"
    "  2    usage: the command line, or an argument that can never be right\n"
    "  3    the daemon is not reachable\n"
    "  4    refused: not permitted, not confirmed, in use, or over a limit\n"
    "  5    no such object\n"
    "  6    unhealthy (ping and status --check), or the doctor found an error, or store check "
    "found\n"
    "       something, repaired or not\n"
    "  7    timed out, or only partly done\n"
    "  130  interrupted\n"
    "\n"
    "Examples:\n"
    "  sluicectl status --check                        for a health probe\n"
    "  sluicectl doctor --config FILE                  what of this machine will hurt; no daemon "
    "needed\n"
    "  sluicectl residency --map --cache 0             what of cache 0 is where\n"
    "  sluicectl residency --json | jq .saved_bytes    what sharing saves\n"
    "  sluicectl evict --tenant batch --bytes 10GiB --dry-run\n"
    "  sluicectl store check /mnt/nvme0/sluice         whether every block on disk is whole\n"
    "  sluicectl drain --timeout 2min                  before maintenance; drain --off afterwards\n"
    "  source <(sluicectl completion bash)\n"
    "\n"
    "Environment: SLUICE_SOCKET, the daemon's socket; NO_COLOR, no colours.";

// CLI11 callbacks: their message becomes part of the usage error.
CLI::callback_t duration_into(std::optional<Timeout>& out) {
  return [&out](const CLI::results_t& values) {
    const auto duration = parse_duration(values.at(0));
    if (!duration) throw CLI::ValidationError(duration.error().text);
    if (duration->count() == 0) throw CLI::ValidationError("a duration of 0 ends before it begins");
    out = *duration;
    return true;
  };
}

CLI::callback_t bytes_into(std::optional<std::uint64_t>& out) {
  return [&out](const CLI::results_t& values) {
    const auto bytes = parse_bytes(values.at(0));
    if (!bytes) throw CLI::ValidationError(bytes.error().text);
    out = *bytes;
    return true;
  };
}

// Decimal digits and nothing else: CLI11 reads "-1" and "0x10" too.
bool read_number(const std::string& text, std::uint64_t& out) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, out);
  return error == std::errc{} && stop == end;
}

CLI::callback_t number_into(std::optional<std::uint64_t>& out) {
  return [&out](const CLI::results_t& values) {
    std::uint64_t number = 0;
    if (!read_number(values.at(0), number)) {
      throw CLI::ValidationError("'" + values.at(0) + "' is not a number");
    }
    out = number;
    return true;
  };
}

CLI::callback_t directories_into(std::vector<doctor::WantedDirectory>& out) {
  return [&out](const CLI::results_t& values) {
    for (const std::string& value : values) {
      auto directory = doctor::parse_directory(value);
      if (!directory) throw CLI::ValidationError(directory.error().text);
      out.push_back(std::move(*directory));
    }
    return true;
  };
}

class CommandLine {
 public:
  explicit CommandLine(const std::string& version)
      : version_("sluicectl " + version), app_(kDescription, "sluicectl") {
    app_.footer(kFooter);
    app_.set_version_flag("--version", version_);
    app_.fallthrough();
    app_.add_option("--socket", options_.socket,
                    "the daemon's socket (default: $SLUICE_SOCKET, else that of a daemon of root "
                    "or this user)")
        ->type_name("PATH");
    app_.add_flag("--json", options_.json, "JSON documents on stdout, errors too");
    app_.add_option("--timeout", duration_into(options_.timeout),
                    "bound of the wait: 5s; of evict and drain 30s")
        ->type_name("DURATION");
    app_.add_flag("--no-color", options_.no_colour, "no colours on a terminal");
    add_looks();
    add_listings();
    add_changes();
    add_config();
    add_doctor();
    add_store();
    completion_ = app_.add_subcommand("completion", "print a completion script: bash, zsh or fish");
    completion_->add_option("SHELL", shell_, "bash, zsh or fish")
        ->required()
        ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  }

  Parsed parse(std::vector<std::string> arguments) {
    const bool json = std::find(arguments.begin(), arguments.end(), "--json") != arguments.end();
    std::reverse(arguments.begin(), arguments.end());  // as CLI11 takes them
    try {
      app_.parse(arguments);
    } catch (const CLI::ParseError& error) {
      std::ostringstream out;
      std::ostringstream err;
      if (app_.exit(error, out, err) == 0) return {std::nullopt, kExitDone, out.str(), {}};
      return wrong(error.what(), json);
    }
    if (completion_->parsed()) {
      return {std::nullopt, kExitDone, completion_script(shell_, words()), {}};
    }
    if (const std::string text = contradiction(); !text.empty()) return wrong(text, json);
    Parsed parsed;
    parsed.options = std::move(options_);
    return parsed;
  }

 private:
  CLI::App* add(CLI::App& parent, const char* name, const char* text, Command command) {
    CLI::App* const added = parent.add_subcommand(name, text);
    added->callback([this, added, command] {
      // The callback of `sessions` runs after that of `sessions kill`.
      if (added->get_subcommands().empty()) options_.command = command;
    });
    return added;
  }
  void add_tenant(CLI::App* command) {
    command->add_option("--tenant", options_.tenant, "only this tenant")->type_name("NAME");
  }
  CLI::Option* add_number(CLI::App* command, const char* name, std::optional<std::uint64_t>& into,
                          const char* text) {
    return command->add_option(name, number_into(into), text)->type_name("NUMBER");
  }
  void add_cursor(CLI::App* command) {
    add_number(command, "--limit", options_.limit, "rows of one answer: 1 to 1024 (default 100)");
    add_number(command, "--after", after_, "go on after this cursor of the answer before");
  }

  void add_looks() {
    add(app_, "ping", "whether the daemon answers", Command::ping);
    add(app_, "version", "versions of this program and of the daemon", Command::version);
    CLI::App* const status = add(app_, "status", "tiers, tenants and health", Command::status);
    add_tenant(status);
    status->add_flag("--check", options_.check, "exit with 6 if something needs an operator");
    CLI::App* const watch =
        add(app_, "watch",
            "a row per interval; one row if stdout is no terminal and neither option is given",
            Command::watch);
    add_tenant(watch);
    watch
        ->add_option("--every", duration_into(options_.every),
                     "interval, 100ms or more (default 1s)")
        ->type_name("DURATION");
    add_number(watch, "--count", options_.count, "rows; without it, until interrupted");
  }

  void add_listings() {
    add(app_, "devices", "HBM and caches of each device", Command::devices);
    add_tenant(add(app_, "tenants", "quotas, use, sharing and forecasts of each tenant",
                   Command::tenants));

    CLI::App* const sessions =
        add(app_, "sessions", "connected processes; `sessions kill S` ends one", Command::sessions);
    add_tenant(sessions);
    add_number(sessions, "--session", options_.session, "only this session");
    sessions
        ->add_option(
            "--state", options_.state,
            "only those in this state; quarantined: ended, but its process could still use "
            "what it holds")
        ->type_name("open|quarantined")
        ->check(CLI::IsMember({"open", "quarantined"}));
    CLI::App* const kill = add(*sessions, "kill", "end a session: its process loses what it holds",
                               Command::kill_session);
    add_number(kill, "SESSION", options_.session, "the session's number")->required();
    kill->add_flag("--yes", options_.yes, "do not ask");

    CLI::App* const caches =
        add(app_, "caches", "geometry, use and hit rates of each cache", Command::caches);
    add_tenant(caches);
    add_number(caches, "--cache", options_.cache, "only this cache");

    CLI::App* const sequences =
        add(app_, "sequences", "sequences that engines hold", Command::sequences);
    add_tenant(sequences);
    add_number(sequences, "--cache", options_.cache, "only of this cache");
    add_number(sequences, "--session", options_.session, "only of this session");
    add_cursor(sequences);

    CLI::App* const residency = add(
        app_, "residency", "what is in HBM, in DRAM, in both and pinned, and what sharing saves",
        Command::residency);
    add_tenant(residency);
    add_number(residency, "--cache", options_.cache, "only this cache");
    residency->add_flag("--map", options_.map, "draw the blocks of each cache");
    residency->add_flag("--blocks", options_.blocks,
                        "list blocks; of one cache, or of one sequence");
    add_number(residency, "--session", options_.session, "with --sequence: whose sequence");
    add_number(residency, "--sequence", options_.sequence, "list the blocks of this sequence");
    add_cursor(residency);
  }

  void add_changes() {
    CLI::App* const evict = add(
        app_, "evict",
        "give up blocks that no sequence refers to, oldest first; asks unless --yes is given. A "
        "script names --tenant, --cache or --all",
        Command::evict);
    add_tenant(evict);
    add_number(evict, "--cache", options_.cache, "only of this cache");
    evict->add_flag("--all", options_.everything, "of all tenants");
    evict->add_option("--bytes", bytes_into(options_.bytes), "at most this much (default: all)")
        ->type_name("SIZE");
    evict->add_flag("--drop-idle-caches", options_.drop_idle_caches,
                    "also destroy caches that no session has open");
    evict->add_flag("--dry-run", options_.dry_run, "say what could go, change nothing");
    evict->add_flag("--yes", options_.yes, "do not ask");

    CLI::App* const drain =
        add(app_, "drain", "take no new sessions, and wait until those that are there are gone",
            Command::drain);
    drain->add_flag("--off", options_.off, "take sessions again");
  }

  void add_config() {
    CLI::App* const config = app_.add_subcommand("config", "the daemon's configuration");
    config_ = config;
    CLI::App* const check =
        add(*config, "check", "read a file and say what is wrong with it; needs no daemon",
            Command::config_check);
    check->add_option("FILE", options_.file, "a TOML file")->required();
    add(*config, "show", "every value that the daemon runs with", Command::config_show);
    add(*config, "reload", "read the daemon's file again and apply what can change",
        Command::config_reload);
  }

  void add_doctor() {
    CLI::App* const doctor = add(
        app_, "doctor",
        "what of this machine will hurt, and what to do about it; needs no daemon, and looks at "
        "one that answers. Exits with 6 if it finds an error",
        Command::doctor);
    doctor
        ->add_option("--config", options_.file,
                     "the configuration to compare with (default: the running daemon's, else the "
                     "installed file, else sluiced's defaults)")
        ->type_name("FILE");
    doctor
        ->add_option("--nvme", directories_into(options_.nvme),
                     "also look at this directory, which is to hold so much; may be repeated")
        ->type_name("DIR[:SIZE]")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    doctor->add_flag("--no-speed", options_.no_speed,
                     "leave out the speed test of such directories (a second and 256 MiB each)");
  }

  CLI::App* add_to_store(const char* name, const char* text, Command command) {
    CLI::App* const added = add(*store_, name, text, command);
    added
        ->add_option("DIR", directories_into(options_.directories),
                     "the directories of the store, as tiers.nvme.directories has them")
        ->type_name("DIR[:SIZE]")
        ->expected(1, -1);
    added
        ->add_option("--config", options_.file,
                     "take them from this configuration (default: the installed file)")
        ->type_name("FILE");
    added
        ->add_option("--index", options_.index_directory,
                     "the directory of its index (default: `index` in the first one)")
        ->type_name("DIR");
    return added;
  }

  void add_store() {
    store_ = app_.add_subcommand(
        "store", "the NVMe block store, while no daemon runs on it: check, stats, compact, dump");
    CLI::App* const check =
        add_to_store("check",
                     "verify every block, and that index and segments agree; changes nothing "
                     "without --repair. Exits with 6 if it finds something",
                     Command::store_check);
    check->add_flag("--repair", options_.repair,
                    "forget what is lost, tell the index what it missed; asks unless --yes is "
                    "given");
    check->add_flag("--dry-run", options_.dry_run, "with --repair: say what it would do");
    check->add_flag("--yes", options_.yes, "do not ask");
    add_to_store("stats",
                 "blocks and bytes by device, tenant and namespace, and how full segments are",
                 Command::store_stats);
    CLI::App* const compact = add_to_store(
        "compact", "move blocks out of segments that are mostly dead, and give these back",
        Command::store_compact);
    add_number(compact, "--live", live_percent_,
               "segments of which less than this percentage is alive (default 50)");
    CLI::App* const dump = add_to_store("dump", "list blocks, one a line; or write one to a file",
                                        Command::store_dump);
    add_tenant(dump);
    dump->add_option("--namespace", options_.scope,
                     "only of this namespace, or those whose text begins so: "
                     "tenant/model/salt/layout/shard")
        ->type_name("TEXT");
    add_number(dump, "--limit", options_.limit, "at most so many blocks");
    dump->add_option("--data", options_.key, "write the block of this key (hexadecimal) to --out")
        ->type_name("KEY");
    dump->add_option("--out", options_.out_file, "a file that is not there yet")->type_name("FILE");
  }

  std::string store_contradiction() const {
    const Options& o = options_;
    if (store_->get_subcommands().empty()) {
      return "store needs one of check, stats, compact and dump";
    }
    if (!o.directories.empty() && !o.file.empty()) {
      return "name directories, or a configuration that does: not both";
    }
    if (o.live_percent > 100) return "--live is a percentage: 0 to 100";
    if (o.dry_run && !o.repair) return "--dry-run belongs to --repair";
    if (o.key.has_value() == o.out_file.empty()) return "--data and --out belong together";
    if (o.limit && *o.limit == 0) return "--limit must be 1 or more";
    return {};
  }

  std::string contradiction() {
    const Options& o = options_;
    if (app_.get_subcommands().empty()) return "a command is needed, such as `sluicectl status`";
    if (config_->parsed() && config_->get_subcommands().empty()) {
      return "config needs one of check, show and reload";
    }
    options_.after = after_.value_or(0);
    options_.live_percent = live_percent_.value_or(kDefaultLivePercent);
    if (store_->parsed()) return store_contradiction();
    if (o.limit && (*o.limit < 1 || *o.limit > kMostListedRows)) {
      return "--limit is " + std::to_string(*o.limit) + "; expected 1 to 1024";
    }
    if (o.every && *o.every < kShortestInterval) return "--every is less than 100ms";
    if (o.command == Command::watch && o.count && *o.count == 0) return "--count must be 1 or more";
    if (o.command == Command::evict) {
      const int chosen = (o.tenant ? 1 : 0) + (o.cache ? 1 : 0) + (o.everything ? 1 : 0);
      if (chosen > 1) return "evict takes one of --tenant, --cache and --all";
    }
    if (o.command == Command::residency) {
      if (o.session.has_value() != o.sequence.has_value()) {
        return "--session and --sequence belong together: a sequence is numbered in its session";
      }
      const bool lists = o.blocks || o.sequence;
      if (lists && o.map) return "--map and --blocks are two views: choose one";
      if (lists && !o.cache && !o.sequence) {
        return "blocks are listed of one cache: add --cache (see `sluicectl caches`)";
      }
      if (!lists && (o.limit || o.after != 0)) return "--limit and --after need --blocks";
    }
    return {};
  }

  Parsed wrong(const std::string& text, bool json) {
    Parsed parsed;
    parsed.exit_code = kExitUsage;
    parsed.err = "sluicectl: " + text + "\nRun with --help for more information.\n";
    if (json) {
      const Json document = {
          {"schema", "sluice.error"}, {"version", 1}, {"code", "invalid_argument"}, {"text", text}};
      parsed.out = document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
    }
    return parsed;
  }

  void add_words(const CLI::App& command, const std::string& name,
                 std::vector<CompletionWords>& all) const {
    CompletionWords own{name, {}};
    for (const CLI::App* sub : command.get_subcommands({})) own.words.push_back(sub->get_name());
    const auto add_options = [&own](const CLI::App& of) {
      for (const CLI::Option* option : of.get_options()) {
        for (const std::string& word : option->get_lnames()) {
          const std::string flag = "--" + word;
          if (std::find(own.words.begin(), own.words.end(), flag) == own.words.end()) {
            own.words.push_back(flag);
          }
        }
      }
    };
    add_options(command);
    if (!name.empty()) add_options(app_);
    if (&command == completion_) own.words.insert(own.words.begin(), {"bash", "zsh", "fish"});
    all.push_back(std::move(own));
    for (const CLI::App* sub : command.get_subcommands({})) {
      add_words(*sub, name.empty() ? sub->get_name() : name + " " + sub->get_name(), all);
    }
  }
  std::vector<CompletionWords> words() const {
    std::vector<CompletionWords> all;
    add_words(app_, "", all);
    return all;
  }

  std::string version_;
  Options options_;
  std::optional<std::uint64_t> after_;
  std::optional<std::uint64_t> live_percent_;
  std::string shell_;
  CLI::App app_;
  CLI::App* config_ = nullptr;
  CLI::App* store_ = nullptr;
  CLI::App* completion_ = nullptr;
};

}  // namespace

Parsed parse_options(std::vector<std::string> arguments, const std::string& version) {
  return CommandLine(version).parse(std::move(arguments));
}

}  // namespace sluice::tools
