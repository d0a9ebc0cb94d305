//! What Postgres would show to whom it should not: for `doctor`.

use sqlx::PgConnection;

use super::StoreError;

/// A problem, in words, with what to do about it.
type Problem = String;

/// Each query yields problems, one a row.
const QUERIES: [&str; 9] = [
    // The owner passes row-level security; everybody else who may read must be held by it.
    "SELECT format('%s has no row-level security, and %s may read it: it shows the rows of all tenants', format('%I.%I', n.nspname, c.relname), \
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a \
     WHERE n.nspname IN ('omnilink', 'odoo') AND c.relkind IN ('r', 'p') AND NOT c.relrowsecurity \
       AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner ORDER BY 1",
    "SELECT format('%s may read the partition %s itself: REVOKE ALL ON %s FROM %s', \
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, format('%I.%I', n.nspname, c.relname), format('%I.%I', n.nspname, c.relname), \
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a \
     WHERE n.nspname IN ('omnilink', 'odoo') AND c.relispartition AND c.relkind IN ('r', 'p') \
       AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner ORDER BY 1",
    "SELECT format('%s may change %s: only %s should', \
            CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END, format('%I.%I', n.nspname, c.relname), \
            quote_ident(pg_get_userbyid(c.relowner))) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a \
     WHERE n.nspname IN ('omnilink', 'odoo') AND c.relkind IN ('r', 'p') \
       AND a.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE') AND a.grantee <> c.relowner GROUP BY 1 ORDER BY 1",
    // A view reads with its owner's rights unless it is a security invoker.
    "SELECT format('the view %s is no security_invoker, and shows what its owner sees: ALTER VIEW %s SET (security_invoker = true)', \
            format('%I.%I', v.relnamespace::regnamespace, v.relname), format('%I.%I', v.relnamespace::regnamespace, v.relname)) \
     FROM pg_class v WHERE v.relkind = 'v' AND NOT COALESCE(v.reloptions, '{}') && ARRAY['security_invoker=true', 'security_invoker=on'] \
       AND EXISTS (SELECT FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid \
                   JOIN pg_class t ON d.refclassid = 'pg_class'::regclass AND t.oid = d.refobjid AND t.oid <> v.oid \
                   JOIN pg_namespace n ON n.oid = t.relnamespace WHERE r.ev_class = v.oid AND n.nspname IN ('omnilink', 'odoo')) \
       AND EXISTS (SELECT FROM aclexplode(v.relacl) a WHERE a.grantee <> v.relowner) ORDER BY 1",
    "SELECT format('%s belongs to %s, not to omnilink_service: migrations and rebuilds will fail', format('%I.%I', n.nspname, c.relname), \
            quote_ident(pg_get_userbyid(c.relowner))) \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE n.nspname IN ('omnilink', 'odoo') AND c.relkind IN ('r', 'p') AND pg_get_userbyid(c.relowner) <> 'omnilink_service' \
     ORDER BY 1",
    "SELECT format('the role %s %s: it should be able to do nothing but own, or read, the tables of OmniLink', rolname, concat_ws(', ', \
            CASE WHEN rolsuper THEN 'is a superuser' END, CASE WHEN rolbypassrls THEN 'bypasses row-level security' END, \
            CASE WHEN rolcreaterole THEN 'may create roles' END, CASE WHEN rolcanlogin THEN 'may log in' END)) \
     FROM pg_roles WHERE rolname IN ('omnilink_service', 'omnilink_reader') \
       AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcanlogin) \
     UNION ALL SELECT 'omnilink_reader is a member of omnilink_service, so readers may become the owner of all tables' \
     FROM pg_roles r, pg_roles s WHERE r.rolname = 'omnilink_reader' AND s.rolname = 'omnilink_service' \
       AND pg_has_role(r.oid, s.oid, 'MEMBER')",
    // Readers are given USAGE; everybody else needs a grant of an administrator, which names them.
    "SELECT format('%s has %s on the schema %I: REVOKE %s ON SCHEMA %I FROM %s', w.who, a.privilege_type, n.nspname, a.privilege_type, \
            n.nspname, w.who) \
     FROM pg_namespace n, aclexplode(n.nspacl) a, \
       LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS who) w \
     WHERE n.nspname IN ('omnilink', 'odoo') AND a.grantee <> n.nspowner AND (a.grantee = 0 OR a.privilege_type = 'CREATE') \
     ORDER BY 1",
    // OmniLink grants nothing on columns.
    "SELECT format('%s has %s on the column %I of %s: REVOKE %s (%I) ON %s FROM %s', w.who, a.privilege_type, t.attname, w.named, \
            a.privilege_type, t.attname, w.named, w.who) \
     FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(t.attacl) a, \
       LATERAL (SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS who, \
                       format('%I.%I', n.nspname, c.relname) AS named) w \
     WHERE n.nspname IN ('omnilink', 'odoo') AND t.attnum > 0 AND NOT t.attisdropped AND a.grantee <> c.relowner ORDER BY 1",
    // Policies add up: a row is shown if any of them lets it through.
    "SELECT CASE WHEN p.polname <> 'readers' \
              THEN format('the policy %I on %s is not OmniLink''s, and may show rows of other tenants: DROP POLICY %I ON %s', \
                          p.polname, w.named, p.polname, w.named) \
              ELSE format('the policy readers on %s is not as OmniLink made it, and may show rows of other tenants', w.named) END \
     FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace, \
       LATERAL (SELECT format('%I.%I', n.nspname, c.relname) AS named) w \
     WHERE n.nspname IN ('omnilink', 'odoo') \
       AND (p.polname <> 'readers' OR p.polcmd <> 'r' \
         OR p.polroles <> ARRAY(SELECT r.oid FROM pg_roles r WHERE r.rolname = 'omnilink_reader') \
         OR COALESCE(pg_get_expr(p.polqual, p.polrelid), '') !~* 'session_user') ORDER BY 1",
];

/// What is wrong with the rights on OmniLink's tables; empty: nothing.
pub async fn problems(connection: &mut PgConnection) -> Result<Vec<Problem>, StoreError> {
    let mut problems = Vec::new();
    for query in QUERIES {
        let found = sqlx::query_scalar::<_, String>(query);
        problems.extend(found.fetch_all(&mut *connection).await?);
    }
    Ok(problems)
}
