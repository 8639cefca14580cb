// The API reference, drawn from /openapi.json. No foreign script: the page works without any other network.

const METHODS = ["get", "post", "put", "patch", "delete"];

function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

// A schema in one indented text: names, types, defaults and what they mean.
function outline(schema, api, depth = 0, seen = []) {
  const pad = "  ".repeat(depth);
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    if (seen.includes(name)) return name;
    return outline(api.components.schemas[name], api, depth, [...seen, name]);
  }
  const either = schema.anyOf || schema.oneOf;
  if (either) return either.map((one) => outline(one, api, depth, seen)).join(" | ");
  if (schema.type === "array") return `[ ${outline(schema.items || {}, api, depth, seen)} ]`;
  if (schema.properties) {
    const lines = Object.entries(schema.properties).map(([name, property]) => {
      const needed = schema.required?.includes(name) ? "" : "?";
      const fallback = property.default === undefined || property.default === null ? "" : ` = ${JSON.stringify(property.default)}`;
      const meaning = property.description ? `   # ${property.description}` : "";
      return `${pad}  ${name}${needed}: ${outline(property, api, depth + 1, seen)}${fallback}${meaning}`;
    });
    return `{\n${lines.join("\n")}\n${pad}}`;
  }
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  return schema.type || "any";
}

function body(title, content, api) {
  const schema = content?.["application/json"]?.schema;
  return schema ? [element("h3", { textContent: title }), element("pre", { textContent: outline(schema, api) })] : [];
}

function operation(path, method, found, api) {
  const node = element("details", {}, element("summary", {}, element("span", { className: "method", textContent: method.toUpperCase() }), element("code", { textContent: path })));
  node.append(element("p", { textContent: found.description || found.summary || "" }));
  node.append(...body("Request", found.requestBody?.content, api));
  for (const [status, answer] of Object.entries(found.responses)) {
    if (status.startsWith("2")) node.append(...body(`Answer ${status}`, answer.content, api));
  }
  return node;
}

const root = document.getElementById("reference");
const answer = await fetch("/openapi.json");
if (answer.ok) {
  const api = await answer.json();
  root.append(element("h2", { textContent: `${api.info.title} ${api.info.version}` }), element("p", { textContent: api.info.description }));
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS) if (item[method]) root.append(operation(path, method, item[method], api));
  }
  root.append(element("h3", { textContent: "Problem (every error)" }), element("pre", { textContent: outline(api.components.schemas.Problem, api) }));
} else {
  root.append(element("p", { textContent: `Cannot load /openapi.json: ${answer.status}.` }));
}
