import * as Tool from "effect/ai/Tool"
import * as Schema from "effect/Schema"
import * as Json from "./json.ts"

/**
 * The JSON Schema of what a model shall write: without fields of any name, with an object at the root where there is one, and with
 * shared parts below `$defs`.
 */
export const ofSchema = (schema: Schema.Constraint): Json.JsonObject => {
  const known = written.get(schema)
  if (known !== undefined) return known
  // A decoder ignores fields that it does not know, but a model should not be told so.
  const document = Schema.toJsonSchemaDocument(schema, { onExcessProperty: "error" })
  const root = resolve(document.schema, document.definitions)
  const result = Object.keys(document.definitions).length === 0 ? root : { ...root, $defs: document.definitions }
  written.set(schema, result)
  return result
}

// Writing a schema takes longer than all the rest of a request, and schemas are few and live long.
const written = new WeakMap<Schema.Constraint, Json.JsonObject>()

/** The JSON Schema of the parameters of a tool. Every provider insists on an object, also for a tool without any. */
export const ofTool = (tool: Tool.Any): Json.JsonObject => {
  const schema =
    Tool.isDynamic(tool) && Json.isObject(tool.jsonSchema) ? tool.jsonSchema : ofSchema(tool.parametersSchema)
  return schema["type"] === "object" ? { properties: {}, ...schema } : { type: "object", properties: {} }
}

const resolve = (schema: Json.JsonObject, definitions: Json.JsonObject): Json.JsonObject => {
  const name = Json.string(schema["$ref"])?.replace(/^#\/\$defs\//, "")
  return name === undefined ? schema : Json.object(definitions[name])
}

const common = ["type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf"]
const annotations = ["$ref", "$defs", "title", "description"]

// What OpenAI's strict mode understands.
const strictKeywords = new Set([
  ...common,
  ...annotations,
  "pattern",
  "format",
  "minimum",
  "maximum",
  "exclusiveMinimum",
  "exclusiveMaximum",
  "multipleOf",
  "minItems",
  "maxItems"
])

/**
 * The schema in the form that OpenAI's strict mode accepts, or `undefined` when there is none.
 *
 * Strict mode wants every field to be required. A field that may be left out and may be `null` can be required just as well; one that
 * may only be left out cannot.
 */
export const strict = (schema: Json.JsonObject): Json.JsonObject | undefined => {
  if (Object.keys(schema).some((keyword) => !strictKeywords.has(keyword))) return undefined
  const required = new Set(Json.array(schema["required"]))
  const properties = Object.entries(Json.object(schema["properties"]))
  if (schema["type"] === "object") {
    if (schema["additionalProperties"] !== false) return undefined
    if (properties.some(([name, property]) => !required.has(name) && !isNullable(property))) return undefined
  }
  const inner = within(schema, strict)
  if (inner === undefined) return undefined
  return schema["type"] === "object" ? { ...inner, required: properties.map(([name]) => name) } : inner
}

const isNullable = (schema: unknown): boolean =>
  Json.array(Json.object(schema)["anyOf"]).some((option) => Json.object(option)["type"] === "null")

/** The schema with each schema inside of it replaced, or `undefined` when one cannot be. */
const within = (
  schema: Json.JsonObject,
  replace: (inner: Json.JsonObject) => Json.JsonObject | undefined
): Json.JsonObject | undefined => {
  let possible = true
  const one = (inner: unknown): unknown => {
    const replaced = Json.isObject(inner) ? replace(inner) : undefined
    possible &&= replaced !== undefined
    return replaced
  }
  const byName = (inner: unknown) =>
    Object.fromEntries(Object.entries(Json.object(inner)).map(([name, value]) => [name, one(value)]))
  const result = {
    ...schema,
    ...(schema["properties"] === undefined ? undefined : { properties: byName(schema["properties"]) }),
    ...(schema["$defs"] === undefined ? undefined : { $defs: byName(schema["$defs"]) }),
    ...(schema["anyOf"] === undefined ? undefined : { anyOf: Json.array(schema["anyOf"]).map(one) }),
    ...(schema["items"] === undefined ? undefined : { items: one(schema["items"]) })
  }
  return possible ? result : undefined
}

// What Anthropic's JSON output understands.
const nativeKeywords = new Set([...common, ...annotations])
// What it can do without: these only narrow what is allowed, and the policies above check the answer against all of the schema.
const narrowing = new Set([
  ...strictKeywords,
  "minLength",
  "maxLength",
  "uniqueItems",
  "minProperties",
  "maxProperties"
])

/** The schema in the form that Anthropic's JSON output accepts, or `undefined` when there is none. */
export const native = (schema: Json.JsonObject): Json.JsonObject | undefined =>
  schema["type"] === "object" && !isRecursive(schema) ? nativeWithin(schema) : undefined

const nativeWithin = (schema: Json.JsonObject): Json.JsonObject | undefined => {
  if (Object.keys(schema).some((keyword) => !narrowing.has(keyword))) return undefined
  if (schema["type"] === "object" && schema["additionalProperties"] !== false) return undefined
  return within(
    Object.fromEntries(Object.entries(schema).filter(([keyword]) => nativeKeywords.has(keyword))),
    nativeWithin
  )
}

const isRecursive = (schema: Json.JsonObject): boolean => {
  const definitions = Json.object(schema["$defs"])
  const reaches = (inner: unknown, path: ReadonlyArray<string>): boolean => {
    if (Array.isArray(inner)) return inner.some((item) => reaches(item, path))
    if (!Json.isObject(inner)) return false
    const name = Json.string(inner["$ref"])?.replace(/^#\/\$defs\//, "")
    if (name !== undefined) return path.includes(name) || reaches(definitions[name], [...path, name])
    return Object.entries(inner).some(([keyword, value]) => keyword !== "$defs" && reaches(value, path))
  }
  return reaches(schema, [])
}
