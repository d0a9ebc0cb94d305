//! Capitalised words that are neither people nor places: departments, products, documents, months, days of the week.

use super::token::Text;

#[rustfmt::skip]
const COMMON: &[&str] = &[
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december", "monday",
    "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "christmas", "easter", "montag", "dienstag", "mittwoch",
    "donnerstag", "freitag", "samstag", "sonntag", "the", "a", "an", "this", "that", "these", "all", "our", "my", "your", "their", "his",
    "her", "its", "new", "old", "next", "last", "please", "and", "or", "if", "then", "when", "after", "before", "also", "not", "no", "yes",
    "finance", "accounting", "accounts", "sales", "marketing", "legal", "support", "procurement", "purchasing", "logistics", "operations",
    "engineering", "facilities", "controlling", "compliance", "payroll", "payable", "receivable", "human", "resources", "customer",
    "service", "services", "customers", "management", "board", "team", "teams", "department", "security", "quality", "production",
    "research", "development", "treasury", "audit", "warehouse", "shipping", "helpdesk", "desk", "reception", "administration", "director",
    "manager", "officer", "head", "lead", "chief", "president", "chairman", "secretary", "assistant", "supplier", "vendor", "invoice",
    "invoices", "order", "orders", "purchase", "quote", "quotes", "offer", "contract", "contracts", "report", "reports", "request",
    "requests", "ticket", "tickets", "expense", "expenses", "budget", "project", "projects", "policy", "terms", "conditions", "agreement",
    "document", "documents", "form", "case", "account", "statement", "payment", "payments", "credit", "note", "delivery", "meeting",
    "room", "building", "floor", "office", "conference", "hall", "street", "plant", "line", "box", "store", "shop", "microsoft", "google",
    "amazon", "apple", "adobe", "oracle", "sap", "salesforce", "hubspot", "slack", "zoom", "jira", "confluence", "github", "gitlab",
    "notion", "asana", "trello", "zendesk", "servicenow", "workday", "datev", "odoo", "netsuite", "quickbooks", "xero", "shopify",
    "stripe", "paypal", "dropbox", "sharepoint", "onedrive", "outlook", "excel", "word", "powerpoint", "windows", "linux", "docker",
    "kubernetes", "postgres", "mysql", "redis", "kafka", "drive", "docs", "sheets", "calendar", "analytics", "azure", "aws", "cloud",
    "online", "premium", "basic", "standard", "enterprise", "professional", "business", "economy", "gold", "silver", "plan", "english",
    "german", "french", "spanish", "italian", "dutch", "polish", "chinese", "japanese", "portuguese", "black", "white", "red", "green",
    "blue", "north", "south", "east", "west", "group", "inc", "ltd", "gmbh", "corp", "company", "bank",
];

/// Whether the word at a place is one of them.
pub(super) fn is_common(text: &Text<'_>, at: usize) -> bool {
    COMMON.contains(&text.word(at))
}
