import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as Prompt from "effect/ai/Prompt"
import { answerToolDescription, toolName, type Writing } from "./adapter.ts"
import * as Json from "./json.ts"
import * as JsonSchema from "./jsonSchema.ts"
import * as Translation from "./prompt.ts"
import { systemTexts, type Turn, turns, type Writer } from "./turns.ts"

/** The tool through which a model answers with JSON: Converse has no other way that all of its models know. */
export const answerTool = (request: LlmRequest.LlmRequest): string | undefined =>
  request.responseFormat.type === "json" ? toolName(request.responseFormat.objectName) : undefined

/** Writes a request as the body of Converse. The model is in the address, and so is whether to stream. */
export const body = (request: LlmRequest.LlmRequest, options: Writing): Json.JsonObject => {
  const { settings } = options
  const system = systemTexts(request.prompt).flatMap((message) => [
    { text: message.content },
    ...cachePoint(message.options)
  ])
  const stop = Translation.stopSequences(settings)
  const inference = {
    ...(settings.maxOutputTokens === undefined ? undefined : { maxTokens: settings.maxOutputTokens }),
    ...(settings.temperature === undefined ? undefined : { temperature: Math.min(1, settings.temperature) }),
    ...(settings.topP === undefined ? undefined : { topP: settings.topP }),
    ...(stop.length === 0 ? undefined : { stopSequences: stop })
  }
  const messages = turns(request.prompt, writer)
  return {
    ...(system.length === 0 ? undefined : { system }),
    messages: withNames(messages),
    ...(Object.keys(inference).length === 0 ? undefined : { inferenceConfig: inference }),
    ...toolConfig(request, messages),
    ...Translation.providerOptions(settings, "bedrock", options.provider)
  }
}

// Documents of the same name are refused.
const withNames = (messages: ReadonlyArray<Turn>): ReadonlyArray<Turn> => {
  let documents = 0
  return messages.map(({ content, role }) => ({
    role,
    content: content.map((block) => {
      const document = block["document"]
      if (!Json.isObject(document)) return block
      documents++
      return documents === 1
        ? block
        : { ...block, document: { ...document, name: `${String(document["name"])} ${documents}` } }
    })
  }))
}

// An empty text is refused.
const textBlock = (part: Prompt.TextPart): ReadonlyArray<Json.JsonObject> =>
  part.text.trim() === "" ? [] : [{ text: part.text }, ...cachePoint(part.options)]

const userBlock = (part: Prompt.UserMessagePart): ReadonlyArray<Json.JsonObject> =>
  part.type === "text" ? textBlock(part) : [file(part), ...cachePoint(part.options)]

const documents: { readonly [mediaType: string]: string } = {
  "application/pdf": "pdf",
  "application/msword": "doc",
  "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
  "application/vnd.ms-excel": "xls",
  "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
  "text/csv": "csv",
  "text/html": "html",
  "text/markdown": "md",
  "text/plain": "txt"
}

const file = (part: Prompt.FilePart): Json.JsonObject => {
  const mediaType = Translation.mediaTypeOf(part)
  const [kind, subtype = ""] = mediaType.split("/", 2)
  if (kind === "image") return { image: { format: subtype === "jpg" ? "jpeg" : subtype, source: sourceOf(part) } }
  if (kind === "video") return { video: { format: subtype === "quicktime" ? "mov" : subtype, source: sourceOf(part) } }
  const format = documents[mediaType]
  if (format === undefined) throw new Translation.Unwritable(`Bedrock takes no files of the type ${mediaType}`)
  const name = (part.fileName ?? "").replace(/\.[a-z0-9]{1,8}$/i, "").replace(/[^a-zA-Z0-9()[\]-]+/g, " ")
  return { document: { format, name: name.trim().slice(0, 180) || "document", source: sourceOf(part) } }
}

const sourceOf = (part: Prompt.FilePart): Json.JsonObject => {
  if (String(part.data).startsWith("s3://")) return { s3Location: { uri: String(part.data) } }
  const source = Translation.sourceOf(part)
  if (source._tag === "Url") throw new Translation.Unwritable("Bedrock takes files as data or from S3, not by address")
  return { bytes: source.data }
}

const maxIdLength = 64

// Reasoning is accepted back only with the signature that its model gave it.
const thinkingBlock = (part: Prompt.ReasoningPart): ReadonlyArray<Json.JsonObject> => {
  const { redactedContent, signature } = Json.object(part.options["bedrock"])
  if (typeof redactedContent === "string") return [{ reasoningContent: { redactedContent } }]
  return typeof signature === "string" ? [{ reasoningContent: { reasoningText: { text: part.text, signature } } }] : []
}

const callBlock = (part: Prompt.ToolCallPart): ReadonlyArray<Json.JsonObject> => [
  {
    toolUse: {
      toolUseId: Translation.callId(part.id, maxIdLength),
      name: part.name,
      input: Json.isObject(part.params) ? part.params : {}
    }
  }
]

const resultBlock = (part: Prompt.ToolResultPart): ReadonlyArray<Json.JsonObject> => [
  {
    toolResult: {
      toolUseId: Translation.callId(part.id, maxIdLength),
      content: resultContent(part),
      ...(part.isFailure ? { status: "error" } : undefined)
    }
  },
  ...cachePoint(part.options)
]

const resultContent = (part: Prompt.ToolResultPart): ReadonlyArray<Json.JsonObject> =>
  part.modelOutput !== undefined && part.modelOutput.some((output) => output.type === "file")
    ? part.modelOutput.flatMap((output) => (output.type === "file" ? [file(output)] : textBlock(output)))
    : [{ text: Translation.resultText(part) }]

const writer: Writer = {
  user: userBlock,
  text: textBlock,
  reasoning: thinkingBlock,
  call: callBlock,
  result: resultBlock
}

const cachePoint = (options: { readonly [provider: string]: unknown }): ReadonlyArray<Json.JsonObject> => {
  const { cachePoint: point } = Json.object(options["bedrock"])
  return Json.isObject(point) ? [{ cachePoint: point }] : []
}

const toolConfig = (request: LlmRequest.LlmRequest, messages: ReadonlyArray<Turn>): Json.JsonObject => {
  const { choice, tools } = Translation.toolsOf(request)
  const answer = answerTool(request)
  const specs = tools.map(({ description, name, parameters }) => spec(name, description, parameters))
  if (answer !== undefined && request.responseFormat.type === "json") {
    const format = spec(answer, answerToolDescription, JsonSchema.ofSchema(request.responseFormat.schema))
    const only = specs.length === 0 || choice === "none"
    const forced = only ? { tool: { name: answer } } : typeof choice === "object" ? chosen(choice) : { any: {} }
    return { toolConfig: { tools: [...specs, format], toolChoice: forced } }
  }
  if (specs.length > 0 && choice !== "none") return { toolConfig: { tools: specs, toolChoice: chosen(choice) } }
  // A conversation with calls needs the tools that were called, although nobody may call them: there is no choice `none`.
  const called = [...new Set(messages.flatMap(({ content }) => content.flatMap(nameOfCall)))]
  const past = called.map((name) => specs.find((known) => known.toolSpec.name === name) ?? spec(name, undefined, any))
  return past.length === 0 ? {} : { toolConfig: { tools: past } }
}

const any = { type: "object", properties: {} }

const nameOfCall = (block: Json.JsonObject): ReadonlyArray<string> => {
  const name = Json.string(Json.object(block["toolUse"])["name"])
  return name === undefined ? [] : [name]
}

const spec = (name: string, description: string | undefined, schema: Json.JsonObject) => ({
  toolSpec: { name, ...(description === undefined ? undefined : { description }), inputSchema: { json: schema } }
})

const chosen = (choice: ReturnType<typeof Translation.toolsOf>["choice"]): Json.JsonObject => {
  if (typeof choice === "object") return { tool: { name: choice.tool } }
  return choice === "required" ? { any: {} } : { auto: {} }
}
