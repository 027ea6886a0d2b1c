#ifndef QUANTD_CLIENT_CLI_TABLE_H_
#define QUANTD_CLIENT_CLI_TABLE_H_

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

namespace quantd::cli {

// Rows of text under titles, columns aligned. Not thread-safe.
class Table {
 public:
  enum class Align { kLeft, kRight };
  // What happens to a column where the line has no room for all.
  enum class Fit {
    kKeep,    // nothing
    kShrink,  // its cells lose their middle: names
    kWrap,    // its cells go on in the lines below: sentences
    kDrop,    // it is left out, the last one first
  };
  struct Column {
    std::string title;
    Align align = Align::kLeft;
    Fit fit = Fit::kKeep;
  };
  static constexpr size_t kUnlimited = size_t{1} << 20;

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Adds a row; missing cells are empty. Cells are printable.
  void AddRow(std::vector<std::string> cells);
  // Adds a line across.
  void AddRule() { rows_.emplace_back(); }

  // Returns the table in lines of at most `columns`, or as near to it as what is kept allows;
  // columns that are empty in all rows are left out.
  std::string Text(size_t columns = kUnlimited) const;
  // Returns the table as Markdown.
  std::string Markdown() const;

 private:
  std::vector<size_t> Fitted(size_t columns) const;
  std::string Line(const std::vector<std::string>& cells, const std::vector<size_t>& widths) const;

  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // an empty row is a rule
};

// Returns the columns that tables on `fd` may have: those of the terminal, else those that $COLUMNS
// says, else no limit.
size_t ColumnsOfOutput(int fd);

}  // namespace quantd::cli

#endif  // QUANTD_CLIENT_CLI_TABLE_H_
