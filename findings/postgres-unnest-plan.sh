#!/usr/bin/env bash
# PostgreSQL 16 (PyPI pgserver 0.1.4): a prepared query with unnest($1) is planned again at each execution.
#
# The usual way to look up many keys with one prepared query is a join with unnest($1). For a custom plan, Postgres counts the
# elements of the passed array. For the generic plan, it assumes ten elements. So with one element, the custom plan seems much
# cheaper, and plan_cache_mode = auto never changes to the generic plan. If the query reads the parameter with a subselect,
# unnest((SELECT $1)), the planner does not see the array. Then Postgres uses the generic plan from the sixth execution on.
#
# Seen, after 20 executions with an array of one element: unnest($1): 20 custom plans, 0 generic plans;
# unnest((SELECT $1)): 5 custom plans, 15 generic plans.
# Exit status 0: the behaviour is as described. Exit status 1: it has changed.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check pgserver==0.1.4
cat > "$dir/try.py" <<'PY'
import os, sys, pgserver
server = pgserver.get_server(os.path.join(sys.argv[1], "data"), cleanup_mode="delete")
lateral = "LEFT JOIN LATERAL (SELECT v FROM t WHERE t.id = asked.id LIMIT 1) AS found ON true"
script = """
CREATE TABLE t AS SELECT n::text AS id, n AS v FROM generate_series(1, 10000) n;
ALTER TABLE t ADD PRIMARY KEY (id);
ANALYZE t;
PREPARE bare AS SELECT * FROM unnest($1::text[]) AS asked (id) %s;
PREPARE hidden AS SELECT * FROM unnest((SELECT $1::text[])) AS asked (id) %s;
""" % (lateral, lateral)
for name in ("bare", "hidden"):
    script += ("EXECUTE %s('{7}');\n" % name) * 20
script += "SELECT version();\nSELECT name || ': custom ' || custom_plans || ', generic ' || generic_plans AS plans FROM pg_prepared_statements ORDER BY name;\n"
print(server.psql(script))
server.cleanup()
PY
"$dir/venv/bin/python" "$dir/try.py" "$dir" > "$dir/out"
grep -E '^ *(PostgreSQL|bare|hidden)' "$dir/out"
if grep -q 'bare: custom 20, generic 0' "$dir/out" && grep -q 'hidden: custom 5, generic 15' "$dir/out"; then
  echo "as described"
  exit 0
fi
echo "CHANGED"
exit 1
