-- Five questions to the shop's entities and events: psql "$(cat data/postgres.url)" -f questions.sql
-- Money is whole pence in the state, and pounds here.

\echo 1. What did each day take, and what came back?
SELECT ((state->>'placed_at')::timestamptz AT TIME ZONE 'Europe/London')::date AS day,
       count(DISTINCT external_id) FILTER (WHERE external_id NOT LIKE 'C%') AS orders,
       round(sum((line->>'pence')::bigint) FILTER (WHERE external_id NOT LIKE 'C%') / 100.0, 2) AS taken,
       round(sum((line->>'pence')::bigint) FILTER (WHERE external_id LIKE 'C%') / 100.0, 2) AS back
FROM omnilink.entities, jsonb_each(state->'lines') AS l(number, line)
WHERE entity_type = 'order'
GROUP BY day ORDER BY day;

\echo 2. Which orders were worth the most?
SELECT external_id AS "order", state->>'country' AS country, count(*) AS lines,
       round(sum((line->>'pence')::bigint) / 100.0, 2) AS total
FROM omnilink.entities, jsonb_each(state->'lines') AS l(number, line)
WHERE entity_type = 'order'
GROUP BY 1, 2 ORDER BY total DESC, 1 LIMIT 5;

\echo 3. Which products brought in the most, and what do they cost now?
SELECT p.external_id AS product, p.display_name AS name, round((p.state->>'unit_pence')::bigint / 100.0, 2) AS price,
       sum((line->>'quantity')::bigint) AS sold, round(sum((line->>'pence')::bigint) / 100.0, 2) AS total
FROM omnilink.entities o, jsonb_each(o.state->'lines') AS l(number, line), omnilink.entities p
WHERE o.entity_type = 'order' AND p.entity_type = 'product' AND p.tenant = o.tenant AND p.external_id = line->>'product'
GROUP BY 1, 2, 3 ORDER BY total DESC, 1 LIMIT 5;

\echo 4. Who ordered most often, and what did they spend?
SELECT c.external_id AS customer, c.state->>'country' AS country, count(DISTINCT o.external_id) FILTER (WHERE o.external_id NOT LIKE 'C%') AS orders,
       round(sum((line->>'pence')::bigint) / 100.0, 2) AS total
FROM omnilink.entities c, jsonb_object_keys(c.state->'orders') AS placed(id),
     omnilink.entities o, jsonb_each(o.state->'lines') AS l(number, line)
WHERE c.entity_type = 'customer' AND o.entity_type = 'order' AND o.tenant = c.tenant AND o.external_id = placed.id
GROUP BY 1, 2 ORDER BY orders DESC, total DESC, 1 LIMIT 5;

\echo 5. How did order 710002 come to be?
SELECT id, type, time AT TIME ZONE 'Europe/London' AS time, line->>'name' AS name, line->>'quantity' AS quantity
FROM omnilink.events, jsonb_each(data->'lines') AS l(number, line)
WHERE entity_type = 'order' AND entity_id = '710002'
ORDER BY number::int;
