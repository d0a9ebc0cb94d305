// Shows openapi.json. Text of the document is put into the page as text, never as markup.
"use strict";

const METHODS = ["get", "post", "put", "patch", "delete"];

// An element with attributes and children; strings become text.
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Text with `code` in it.
function prose(text) {
  return (text || "").split("`").map((part, at) => (at % 2 ? element("code", {}, part) : part));
}

function lines(text) {
  const items = (text || "").split("\n");
  if (!items.every((item) => item.startsWith("- "))) return element("p", {}, ...prose(text));
  return element("ul", {}, ...items.map((item) => element("li", {}, ...prose(item.slice(2)))));
}

function table(heads, rows) {
  const head = element("tr", {}, ...heads.map((text) => element("th", {}, text)));
  const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, ...[cell].flat()))));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
}

function json(value) {
  return element("pre", {}, JSON.stringify(value, null, 2));
}

class Page {
  constructor(api) {
    this.api = api;
  }

  // What a `$ref` names.
  resolve(value) {
    if (!value || !value.$ref) return value;
    const parts = value.$ref.replace(/^#\//, "").split("/");
    return parts.reduce((at, part) => at?.[part], this.api);
  }

  // A type in a few words, with links to named ones.
  type(schema) {
    if (schema === true || !schema) return ["any"];
    if (schema.$ref) {
      const name = schema.$ref.split("/").pop();
      return [element("a", { href: `#schema-${name}` }, name)];
    }
    const several = schema.anyOf || schema.oneOf || schema.allOf;
    if (several) {
      const joint = schema.allOf ? " and " : " or ";
      return several.flatMap((one, at) => [...(at ? [joint] : []), ...this.type(one)]);
    }
    if (schema.const !== undefined) return [element("code", {}, JSON.stringify(schema.const))];
    if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(", ")];
    if (schema.type === "array") return ["list of ", ...this.type(schema.items)];
    const types = [schema.type || "any"].flat().join(" or ");
    return [schema.format ? `${types} (${schema.format})` : types];
  }

  // The fields of an object, one a row.
  fields(schema) {
    const rows = Object.entries(schema.properties || {}).map(([name, field]) => [
      element("code", {}, name),
      this.type(field),
      (schema.required || []).includes(name) ? "required" : "",
      prose(field.description),
    ]);
    return rows.length ? table(["field", "type", "", "meaning"], rows) : null;
  }

  schema(schema) {
    const found = this.resolve(schema);
    const variants = (found.oneOf || found.anyOf || []).filter((one) => one.properties);
    return [
      element("p", {}, "Type: ", ...this.type(schema)),
      this.fields(found),
      ...variants.map((variant) => this.fields(variant)),
    ];
  }

  content(content) {
    return Object.entries(content || {}).flatMap(([media, body]) => [
      element("p", {}, element("code", {}, media)),
      ...(body.schema && media !== "application/problem+json" ? this.schema(body.schema) : []),
      body.example === undefined ? null : json(body.example),
    ]);
  }

  response([status, response]) {
    const problems = response.content?.["application/problem+json"]?.examples || {};
    const about = Object.keys(problems).length ? Object.keys(problems).join(", ") : response.description;
    return element(
      "details",
      {},
      element("summary", {}, element("span", { class: "method" }, status), ...prose(about)),
      element("div", {}, lines(response.description), ...this.content(response.content)),
    );
  }

  operation(path, method, operation) {
    const parameters = (operation.parameters || []).map((parameter) => [
      element("code", {}, parameter.name),
      parameter.in,
      this.type(parameter.schema),
      parameter.required ? "required" : "",
      prose(parameter.description),
    ]);
    const body = operation.requestBody;
    return element(
      "details",
      { id: operation.operationId, "data-text": `${method} ${path} ${operation.summary}`.toLowerCase() },
      element(
        "summary",
        {},
        element("span", { class: "method" }, method.toUpperCase()),
        element("code", {}, path),
        element("span", { class: "about" }, operation.summary),
      ),
      element(
        "div",
        {},
        element("p", {}, ...prose(operation.description)),
        parameters.length ? element("h3", {}, "Parameters") : null,
        parameters.length ? table(["name", "in", "type", "", "meaning"], parameters) : null,
        body ? element("h3", {}, "Request") : null,
        ...(body ? this.content(body.content) : []),
        element("h3", {}, "Answers"),
        ...Object.entries(operation.responses).map((entry) => this.response(entry)),
      ),
    );
  }

  group(tag) {
    const operations = Object.entries(this.api.paths).flatMap(([path, item]) =>
      METHODS.filter((method) => item[method]?.tags.includes(tag.name)).map((method) =>
        this.operation(path, method, item[method]),
      ),
    );
    return element(
      "section",
      { id: `group-${tag.name}` },
      element("h2", {}, tag.name),
      element("p", {}, ...prose(tag.description)),
      ...operations,
    );
  }

  schemas() {
    const all = Object.entries(this.api.components.schemas).map(([name, schema]) =>
      element(
        "details",
        { id: `schema-${name}`, "data-text": `schema ${name}`.toLowerCase() },
        element("summary", {}, element("code", {}, name)),
        element("div", {}, element("p", {}, ...prose(schema.description)), ...this.schema(schema), json(schema)),
      ),
    );
    return element("section", { id: "group-Types" }, element("h2", {}, "Types"), ...all);
  }
}

// What a link names is opened.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  target.open = true;
  target.scrollIntoView();
}

function filter(words) {
  for (const entry of document.querySelectorAll("[data-text]")) {
    entry.hidden = !words.every((word) => entry.dataset.text.includes(word));
  }
  for (const section of document.querySelectorAll("main section")) {
    section.hidden = !section.querySelector("[data-text]:not([hidden])");
  }
}

async function show() {
  const about = document.getElementById("about");
  const answer = await fetch("openapi.json");
  if (!answer.ok) {
    about.textContent = `openapi.json cannot be read: ${answer.status}`;
    return;
  }
  const page = new Page(await answer.json());
  const { info, tags } = page.api;
  about.replaceChildren(
    `Version ${info.version}. `,
    ...prose(info.description),
    " ",
    element("a", { href: "openapi.json" }, "openapi.json"),
  );
  const names = [...tags.map((tag) => tag.name), "Types"];
  document
    .querySelector("nav")
    .replaceChildren(...names.map((name) => element("a", { href: `#group-${name}` }, name)));
  document.querySelector("main").replaceChildren(...tags.map((tag) => page.group(tag)), page.schemas());
  document.getElementById("filter").addEventListener("input", (event) => {
    filter(event.target.value.toLowerCase().split(/\s+/).filter(Boolean));
  });
  addEventListener("hashchange", open);
  open();
}

show().catch((error) => {
  document.getElementById("about").textContent = `openapi.json cannot be shown: ${error}`;
});
