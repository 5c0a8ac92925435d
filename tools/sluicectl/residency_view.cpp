#include <algorithm>
#include <map>

#include "tools/common/size.h"
#include "tools/sluicectl/document.h"
#include "tools/sluicectl/table.h"
#include "tools/sluicectl/views.h"

namespace sluice::tools {
namespace {

// Cells per line of a map are a multiple of this, so that lines begin at round numbers.
constexpr std::size_t kCellsStep = 16;

struct Where {
  double hbm = 0, dram = 0, both = 0, pinned = 0;  // bytes
  bool known = true;  // false: a cache whose table could not be looked at
};

// The hierarchy is inclusive: what is cached in HBM has its frame in DRAM, what is pinned has not
// yet.
Where where_of(const Json& cache) {
  Where where;
  const auto cached = real_at(cache, {"hbm_pages", "cached"});
  const auto pinned = real_at(cache, {"hbm_pages", "pinned"});
  const double page = real_at(cache, {"page_bytes"}).value_or(0);
  where.known = cached.has_value() && pinned.has_value();
  where.both = cached.value_or(0) * page;
  where.pinned = pinned.value_or(0) * page;
  where.hbm = where.both + where.pinned;
  where.dram = (real_at(cache, {"blocks", "sealed"}).value_or(0) +
                real_at(cache, {"blocks", "private"}).value_or(0)) *
               real_at(cache, {"frame_stride_bytes"}).value_or(0);
  return where;
}

std::string if_known(const Where& where, double bytes) {
  return where.known ? human_bytes(bytes) : "-";
}

std::string name_of(const Json& cache) {
  std::string name = text_at(cache, {"model"});
  if (number_at(cache, {"shard_count"}).value_or(1) > 1) {
    name += " shard " + id_text(cache, {"shard_index"}) + "/" + id_text(cache, {"shard_count"});
  }
  return name;
}

std::string tenants_part(const Json& document, const View& view) {
  std::map<std::string, Where> of_tenant;
  for (const Json& cache : rows_at(document, {"caches"})) {
    const Where where = where_of(cache);
    Where& sum = of_tenant[text_at(cache, {"tenant"})];
    sum.hbm += where.hbm;
    sum.dram += where.dram;
    sum.both += where.both;
    sum.pinned += where.pinned;
    sum.known = sum.known && where.known;
  }
  Table table({{"TENANT", Align::left},
               {"CACHES"},
               {"IN HBM"},
               {"IN DRAM"},
               {"IN BOTH"},
               {"PINNED"},
               {"BLOCKS"},
               {"SHARED"},
               {"SAVED"}});
  for (const Json& row : rows_at(document, {"tenants"})) {
    const Where where = of_tenant[text_at(row, {"tenant"})];
    table.add({text_at(row, {"tenant"}), count_text(row, {"caches"}), if_known(where, where.hbm),
               human_bytes(where.dram), if_known(where, where.both), if_known(where, where.pinned),
               human_count(number_at(row, {"blocks", "private"}).value_or(0) +
                           number_at(row, {"blocks", "sealed"}).value_or(0)),
               count_text(row, {"blocks", "shared"}), bytes_text(row, {"sharing", "saved_bytes"})});
  }
  return table.empty() ? "No tenants that you may see.\n" : table.text(view.colour);
}

std::string caches_part(const Json& document, const View& view) {
  Table table({{"CACHE"},
               {"TENANT", Align::left},
               {"MODEL", Align::left},
               {"IN HBM / arena"},
               {"IN DRAM / held"},
               {"IN BOTH"},
               {"PINNED"},
               {"PRIVATE"},
               {"SEALED"},
               {"SHARED"},
               {"UNREFERENCED"},
               {"SAVED"}});
  for (const Json& row : rows_at(document, {"caches"})) {
    const Where where = where_of(row);
    table.add({id_text(row, {"cache"}), text_at(row, {"tenant"}), name_of(row),
               if_known(where, where.hbm) + " / " + bytes_text(row, {"hbm_bytes"}),
               human_bytes(where.dram) + " / " + bytes_text(row, {"dram_bytes"}),
               if_known(where, where.both), if_known(where, where.pinned),
               count_text(row, {"blocks", "private"}), count_text(row, {"blocks", "sealed"}),
               count_text(row, {"blocks", "shared"}), count_text(row, {"blocks", "unreferenced"}),
               bytes_text(row, {"sharing", "saved_bytes"})});
  }
  if (table.empty()) return "No caches: no engine has opened one.\n";
  return table.text(view.colour) +
         "IN BOTH: pages in HBM whose block is in DRAM too. PINNED: pages of private blocks, in "
         "HBM "
         "only.\n";
}

const Json* cache_row(const Json& document, std::uint64_t cache) {
  for (const Json& row : rows_at(document, {"caches"})) {
    if (number_at(row, {"cache"}) == cache) return &row;
  }
  return nullptr;
}

Colour colour_of(char cell) {
  switch (cell) {
    case 'd':
      return Colour::blue;
    case 'b':
      return Colour::green;
    case 'w':
      return Colour::yellow;
    case 'P':
      return Colour::red;
    default:
      return Colour::none;
  }
}

// Runs of the same cell are painted together.
std::string painted_cells(const std::string& cells, bool colour) {
  if (!colour) return cells;
  std::string text;
  for (std::size_t i = 0; i < cells.size();) {
    const std::size_t end = std::min(cells.find_first_not_of(cells[i], i), cells.size());
    text += painted(cells.substr(i, end - i), colour_of(cells[i]), true);
    i = end;
  }
  return text;
}

std::string cells_of(const std::string& cells, std::uint64_t blocks_per_cell, const View& view) {
  const std::size_t label = std::to_string(cells.size() * blocks_per_cell).size();
  const std::size_t room = view.width > label + 2 ? view.width - label - 2 : 1;
  const std::size_t per_line = room >= kCellsStep ? room - room % kCellsStep : room;
  std::string text;
  for (std::size_t i = 0; i < cells.size(); i += per_line) {
    const std::string first = std::to_string(i * blocks_per_cell);
    text += std::string(label - std::min(label, first.size()), ' ') + first + "  " +
            painted_cells(cells.substr(i, per_line), view.colour) + "\n";
  }
  return text;
}

// What the characters mean, in lines that fit.
std::string legend_of(const Json& map, std::uint64_t per_cell, const View& view) {
  std::string text = "cell = " + human_count(per_cell) + (per_cell == 1 ? " block" : " blocks");
  std::size_t used = text.size();
  const Json* const legend = value_at(map, {"legend"});
  if (legend == nullptr || !legend->is_object()) return text + "\n";
  for (const auto& [cell, meaning] : legend->items()) {
    if (!meaning.is_string()) continue;
    const std::string words = printable(cell) + " " + printable(meaning.get<std::string>());
    const bool fits = used + width_of(words) + 3 <= view.width;
    text += fits ? "   " : "\n";
    used = width_of(words) + (fits ? used + 3 : 0);
    text += painted_cells(printable(cell), view.colour) + words.substr(printable(cell).size());
  }
  return text + "\n";
}

std::string one_map(const Json& document, const Json& map, const View& view) {
  const std::uint64_t cache = number_at(map, {"cache"}).value_or(0);
  const std::uint64_t per_cell =
      std::max<std::uint64_t>(number_at(map, {"blocks_per_cell"}).value_or(1), 1);
  const Json* const cells = value_at(map, {"cells"});
  std::string head = "cache " + std::to_string(cache);
  if (const Json* const row = cache_row(document, cache)) {
    head += "  " + text_at(*row, {"tenant"}) + "  " + name_of(*row) +
            "  block = " + bytes_text(*row, {"block_bytes"}) + " = " +
            count_text(*row, {"pages_per_block"}) + " pages";
  }
  std::string text = painted(head, Colour::bold, view.colour) + "\n";
  const std::string drawn =
      cells != nullptr && cells->is_string() ? printable(cells->get<std::string>()) : std::string();
  if (drawn.empty()) return text + "It holds no blocks.\n";
  return text + legend_of(map, per_cell, view) + cells_of(drawn, per_cell, view);
}

}  // namespace

std::string residency_view(const Json& document, const View& view) {
  return "shared " + count_text(document, {"shared_blocks"}) + " blocks, " +
         bytes_text(document, {"saved_bytes"}) + " saved\n\n" + tenants_part(document, view) +
         "\n" + caches_part(document, view);
}

std::string map_view(const Json& document, const View& view) {
  std::string text;
  for (const Json& map : rows_at(document, {"maps"})) {
    text += (text.empty() ? "" : "\n") + one_map(document, map, view);
  }
  return text.empty() ? "No caches: no engine has opened one.\n" : text;
}

std::string blocks_view(const Json& document, const View& view, const std::string& more) {
  Table table({{"BLOCK"},
               {"STATE", Align::left},
               {"REFERENCES"},
               {"BYTES"},
               {"HBM PAGES"},
               {"PINNED"},
               {"DRAM", Align::left},
               {"FRAME"},
               {"KEY", Align::left}});
  for (const Json& row : rows_at(document, {"blocks"})) {
    table.add({id_text(row, {"block"}), text_at(row, {"state"}), count_text(row, {"references"}),
               count_text(row, {"valid_bytes"}), count_text(row, {"hbm_pages"}),
               count_text(row, {"pinned_pages"}), flag_at(row, {"dram"}) ? "yes" : "no",
               id_text(row, {"frame"}), text_at(row, {"key"})});
  }
  const std::uint64_t next = number_at(document, {"next_cursor"}).value_or(0);
  const std::string rest =
      next == 0 ? "" : "More follow: " + more + " --after " + std::to_string(next) + "\n";
  return (table.empty() ? "No blocks.\n" : table.text(view.colour)) + rest;
}

}  // namespace sluice::tools
