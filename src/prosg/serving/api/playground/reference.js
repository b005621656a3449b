// The routes of /openapi.json, with the fields of what is sent.

const description = await (await fetch("/openapi.json")).json();
const main = document.getElementById("routes");

function element(tag, content, className = "") {
  const made = document.createElement(tag);
  made.append(...[content].flat());
  made.className = className;
  return made;
}

function resolved(schema) {
  const name = schema?.$ref?.split("/").pop();
  return name ? description.components.schemas[name] : schema;
}

function typeName(schema) {
  const options = schema.anyOf ?? schema.oneOf;
  if (options) return [...new Set(options.filter((one) => one.type !== "null").map(typeName))].join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(", ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.type === "array") return `list of ${schema.items?.type || schema.items?.$ref ? typeName(schema.items) : "values"}`;
  return schema.type === "null" ? "null" : (schema.type ?? "");
}

function fields(schema) {
  const rows = Object.entries(schema?.properties ?? {}).map(([name, field]) => {
    const needed = schema.required?.includes(name) ? " (needed)" : "";
    const text = [typeName(field) + needed, field.description].filter(Boolean).join(": ");
    return element("tr", [element("td", element("code", name)), element("td", text)]);
  });
  return rows.length ? element("table", rows) : "";
}

const groups = new Map();
for (const [path, methods] of Object.entries(description.paths)) {
  for (const [method, route] of Object.entries(methods)) {
    const group = route.tags?.[0] ?? "other";
    if (!groups.has(group)) groups.set(group, element("section", element("h2", group)));
    const summary = element("summary", [element("span", method.toUpperCase(), "method"), element("code", path), ` ${route.summary}`]);
    const body = resolved(route.requestBody?.content["application/json"]?.schema);
    groups.get(group).append(element("details", [summary, element("p", route.description ?? ""), fields(body)]));
  }
}
main.replaceChildren(...groups.values());
