# Reads the output of `keywicket demo --once`, and prints it as an asciicast (version 2), one step after another. Each step has
# two lines: the purpose of the request, and the request with the status of its response. The other columns are too wide for a
# page.

function show(text) {
	gsub(/\\/, "\\\\", text)
	gsub(/"/, "\\\"", text)
	gsub(/\033/, "\\u001b", text)
	gsub(/\n/, "\\r\\n", text)
	printf "[%.2f, \"o\", \"%s\"]\n", at, text
}

function line(text) {
	show(text "\n")
}

function trim(text) {
	sub(/ +$/, "", text)
	return text
}

function colored(color, text) {
	return "\033[" color "m" text "\033[0m"
}

BEGIN {
	printf "{\"version\": 2, \"width\": %d, \"height\": %d}\n", columns, rows
	line("$ make demo-once")
	at += 1
}

NR == 1 {
	line($0)
	at += 1
	next
}

/^ +API +REQUEST/ {
	request = index($0, "REQUEST")
	key = index($0, "KEY")
	expected = index($0, "EXPECTED")
	seen = index($0, "SEEN")
	next
}

/^ok / {
	status = trim(substr($0, seen, seen - expected))
	color = status ~ /^[23]/ ? 32 : 33
	line("")
	line(colored(36, "# " substr($0, seen + seen - expected)))
	line("ok  " substr($0, request, key - request) colored(color, status))
	at += 0.3
	next
}

/every answer as expected$/ {
	line("")
	line($0)
	show("$ ")
	complete = 1
}

END {
	exit !complete
}
