#!/usr/bin/env bash
# PostgreSQL 16 (PyPI pgserver 0.1.4): only a superuser can attach a custom parameter to a function, although every role can set it.
#
# A custom parameter has a name with a dot, such as app.mode, and needs no declaration. Every role can set it with SET and with
# set_config, also in the body of a function. But CREATE FUNCTION … SET app.mode = 'on' fails for an ordinary role. So a migration
# that a superuser has tested fails with the ordinary login of a managed database. The same is true for ALTER ROLE and
# ALTER DATABASE. With set_config in the body, the function works, and the parameter keeps its value until the end of the
# transaction.
#
# Seen, as an ordinary role that owns its schema: SET and the function with set_config succeed. CREATE FUNCTION with SET fails with
# 'permission denied to set parameter "app.mode"'. As a superuser, it succeeds.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check pgserver==0.1.4
cat > "$dir/try.py" <<'PY'
import os, sys, pgserver
server = pgserver.get_server(os.path.join(sys.argv[1], "data"), cleanup_mode="delete")
function = "CREATE FUNCTION %s() RETURNS text LANGUAGE plpgsql %s AS $$ BEGIN %s RETURN current_setting('app.mode'); END $$;\n"

def attempt(name, role, script):
    try:
        print("%s: %s" % (name, server.psql("\\set ON_ERROR_STOP on\nSET ROLE %s;\n%s" % (role, script)).split("\n")[-4:]))
    except Exception:
        print("%s: failed" % name)

server.psql("CREATE ROLE ordinary; CREATE SCHEMA own AUTHORIZATION ordinary;")
print(server.psql("SELECT version();"))
attempt("SET", "ordinary", "SET app.mode = 'on'; SHOW app.mode;")
attempt("set_config in the body", "ordinary", function % ("own.body", "", "PERFORM set_config('app.mode', 'on', true);") + "SELECT own.body();")
attempt("CREATE FUNCTION with SET", "ordinary", function % ("own.clause", "SET app.mode = 'on'", "") + "SELECT own.clause();")
attempt("the same as a superuser", "postgres", function % ("own.super", "SET app.mode = 'on'", "") + "SELECT own.super();")
server.cleanup()
PY
"$dir/venv/bin/python" "$dir/try.py" "$dir" > "$dir/out" 2> "$dir/err" || { cat "$dir/out" "$dir/err"; exit 1; }
grep -E 'PostgreSQL|^(SET|set_config|CREATE|the same)' "$dir/out"
grep 'permission denied' "$dir/err" || { echo "CHANGED: another error, or none"; cat "$dir/err"; exit 1; }
for line in "^SET: .*' on'" "^set_config in the body: .*' on'" '^CREATE FUNCTION with SET: failed' "^the same as a superuser: .*' on'"; do
  grep -qE "$line" "$dir/out" || { echo "CHANGED: $line"; exit 1; }
done
[ "$(grep -c 'permission denied to set parameter "app.mode"' "$dir/err")" = 1 ] || { echo "CHANGED: the error"; exit 1; }
echo "as described"
