package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const maxWords = 30 // the maximum number of words in a sentence

// unwanted maps each unwanted word to its replacement.
var unwanted = map[string]string{
	"he": "they", "him": "them", "his": "their", "himself": "themselves", "she": "they", "hers": "theirs", "herself": "themselves",
	"nobody's": "no …'s", "somebody's": "a …'s", "whoever": "a caller that, or another noun", "whomever": "a noun", "whom": "that, or two sentences",
	"whose sake": "for", "thereof": "of it", "therein": "in it", "thereby": "so", "whereby": "by which", "hereby": "",
	"hence": "so", "thus": "so", "lest": "so that … not", "ere": "before", "whilst": "while", "amongst": "among", "upon": "on",
	"shall": "must or will", "ought": "should", "in vain": "without a result", "by turns": "in turn", "withal": "", "nought": "zero",
	"of use": "useful", "believes": "assumes", "is mute": "say what is missing", "likewise": "also", "anew": "again",
}

// paragraph is a piece of prose. line is the number of its first line in the file, counted from 1.
type paragraph struct {
	line    int
	text    string
	literal bool // a string of a program, which has no maximum length
}

var (
	code        = regexp.MustCompile("`[^`]*`|<!--.*?-->|https?://\\S+|<[a-zA-Z/][^>]*>")
	link        = regexp.MustCompile(`\[([^\]]*)\](\([^)]*\))?`)
	sentenceEnd = regexp.MustCompile(`[.!?…]["')\]*_]*(\s+|$)`)
	shortForm   = regexp.MustCompile(`\b(e\.g|i\.e|etc|vs|cf|No)\.`)
	wordPattern = regexp.MustCompile(`[\p{L}\p{N}][\p{L}\p{N}'’\-_./=:@]*`)
)

// problems returns a line of text for each problem of the paragraph. The text begins with the line number of the paragraph.
func (p paragraph) problems() (found []string) {
	text := link.ReplaceAllString(code.ReplaceAllString(p.text, "CODE"), "$1")
	text = shortForm.ReplaceAllString(text, "$1")
	for _, sentence := range sentenceEnd.Split(text, -1) {
		whole := strings.Join(strings.Fields(sentence), " ")
		words := wordPattern.FindAllString(sentence, -1)
		if len(words) > maxWords && !p.literal {
			found = append(found, fmt.Sprintf("%d: a sentence of %d words (at most %d): %s", p.line, len(words), maxWords, whole))
		}
		lower := " " + strings.ToLower(strings.Join(words, " ")) + " "
		for _, word := range slices.Sorted(maps.Keys(unwanted)) {
			if strings.Contains(lower, " "+word+" ") {
				found = append(found, fmt.Sprintf("%d: %q, use %q instead: %s", p.line, word, unwanted[word], whole))
			}
		}
	}
	return found
}

// goComments returns the paragraphs of a Go file's comments, and its strings that contain a blank. It skips indented blocks of
// comments, which are code.
func goComments(text string) (found []paragraph, err error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, "", text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	for _, group := range file.Comments {
		first := files.Position(group.Pos()).Line
		found = append(found, paragraphsOf(commentLines(group), first)...)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
			if value, err := strconv.Unquote(literal.Value); err == nil && strings.Contains(strings.TrimSpace(value), " ") {
				found = append(found, paragraph{line: files.Position(literal.Pos()).Line, text: value, literal: true})
			}
		}
		return true
	})
	return found, nil
}

// commentLines returns the lines of a comment group without the comment marks. A directive becomes an empty line.
func commentLines(group *ast.CommentGroup) (lines []string) {
	for _, c := range group.List {
		switch text, isLine := strings.CutPrefix(c.Text, "//"); {
		case !isLine:
			lines = append(lines, strings.Split(strings.TrimSuffix(strings.TrimPrefix(c.Text, "/*"), "*/"), "\n")...)
		case text == "" || text[0] != ' ' && text[0] != '\t':
			lines = append(lines, "")
		default:
			lines = append(lines, strings.TrimPrefix(text, " "))
		}
	}
	return lines
}

// lineComments returns the paragraphs of comments that begin with mark, on a whole line or at the end of a line.
func lineComments(mark string) func(string) ([]paragraph, error) {
	wholeLine := regexp.MustCompile(`^\s*` + mark + `+ ?(.*)$`)
	lineEnd := regexp.MustCompile(`\s` + mark + ` ([A-Z].*)$`)
	return func(text string) (found []paragraph, err error) {
		var lines []string
		for line := range strings.Lines(text) {
			comment := ""
			switch line = strings.TrimRight(line, "\r\n"); {
			case strings.HasPrefix(line, "#!"):
			case wholeLine.MatchString(line):
				comment = wholeLine.FindStringSubmatch(line)[1]
			case lineEnd.MatchString(line):
				found = append(found, paragraph{line: len(lines) + 1, text: lineEnd.FindStringSubmatch(line)[1]})
			}
			lines = append(lines, comment)
		}
		return append(found, paragraphsOf(lines, 1)...), nil
	}
}

var (
	item   = regexp.MustCompile(`^\s*([-*+]|\d+\.)\s+`)
	key    = regexp.MustCompile(`^\s*[\w-]+:( |$)`) // a key of metadata in YAML
	indent = regexp.MustCompile(`^(\t| {4,})`)
)

// paragraphsOf joins lines. An empty line, an item of a list, an indented block and a key of YAML each begin a new paragraph.
func paragraphsOf(lines []string, first int) (found []paragraph) {
	open, inItem := false, false
	for i, line := range lines {
		switch starts := item.MatchString(line) || key.MatchString(line); {
		case strings.TrimSpace(line) == "":
			open, inItem = false, false
		case starts:
			found = append(found, paragraph{line: first + i, text: item.ReplaceAllString(line, "")})
			open, inItem = true, true
		case indent.MatchString(line) && !inItem:
			open = false
		case open:
			found[len(found)-1].text += "\n" + line
		default:
			found = append(found, paragraph{line: first + i, text: line})
			open = true
		}
	}
	return found
}

// markdown returns the paragraphs of a document. Blocks of code are left out; each cell of a table is a paragraph.
func markdown(text string) (found []paragraph, err error) {
	var lines []string
	fenced := false
	flush := func(next int) {
		found = append(found, paragraphsOf(lines, next-len(lines))...)
		lines = nil
	}
	number := 0
	for line := range strings.Lines(text) {
		number++
		line = strings.TrimRight(line, "\r\n")
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, "```"):
			fenced = !fenced
			lines = append(lines, "")
		case fenced:
			lines = append(lines, "")
		case strings.HasPrefix(trimmed, "|"):
			flush(number)
			// A cell may contain a list of values, with semicolons.
			for cell := range strings.FieldsFuncSeq(code.ReplaceAllString(trimmed, "CODE"), func(r rune) bool { return r == '|' || r == ';' }) {
				found = append(found, paragraph{line: number, text: cell})
			}
		case strings.HasPrefix(trimmed, "#"):
			lines = append(lines, "", strings.TrimLeft(trimmed, "# "))
			flush(number + 1)
		default:
			lines = append(lines, line)
		}
	}
	flush(number + 1)
	return found, nil
}
