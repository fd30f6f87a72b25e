import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as Prompt from "effect/ai/Prompt"
import { toolName, type Writing } from "./adapter.ts"
import * as Json from "./json.ts"
import * as JsonSchema from "./jsonSchema.ts"
import * as Translation from "./prompt.ts"

/** Writes a request as the body of a chat completion. */
export const body = (
  request: LlmRequest.LlmRequest,
  options: Writing & { readonly maxTokensField: "max_tokens" | "max_completion_tokens" }
): Json.JsonObject => {
  const { settings } = options
  return {
    model: options.model,
    messages: messages(Translation.withDistinctCalls(request.prompt)),
    ...(settings.maxOutputTokens === undefined ? undefined : { [options.maxTokensField]: settings.maxOutputTokens }),
    ...(settings.temperature === undefined ? undefined : { temperature: settings.temperature }),
    ...(settings.topP === undefined ? undefined : { top_p: settings.topP }),
    ...(settings.stop === undefined || settings.stop.length === 0 ? undefined : { stop: settings.stop }),
    ...(settings.seed === undefined ? undefined : { seed: settings.seed }),
    ...toolFields(request),
    ...responseFormat(request.responseFormat),
    ...Translation.providerOptions(settings, "openai", options.provider),
    ...(options.stream ? { stream: true, stream_options: { include_usage: true } } : { stream: false })
  }
}

const messages = (prompt: Prompt.Prompt): ReadonlyArray<Json.JsonObject> => {
  const written: Array<Json.JsonObject> = []
  for (const message of prompt.content) {
    switch (message.role) {
      case "system": {
        // Templates of open models allow one system message, at the beginning.
        const last = written.at(-1)
        if (last?.["role"] === "system") {
          written[written.length - 1] = { role: "system", content: `${String(last["content"])}\n\n${message.content}` }
        } else {
          written.push({ role: "system", content: message.content })
        }
        break
      }
      case "user":
        written.push({ role: "user", content: userContent(message.content) })
        break
      case "assistant":
        written.push(...assistantMessages(message.content))
        break
      case "tool":
        for (const part of message.content) if (part.type === "tool-result") written.push(toolMessage(part))
        break
    }
  }
  return written
}

const userContent = (parts: ReadonlyArray<Prompt.UserMessagePart>): string | ReadonlyArray<Json.JsonObject> => {
  const only = parts[0]
  if (parts.length === 1 && only?.type === "text") return only.text
  return parts.map((part) => (part.type === "text" ? { type: "text", text: part.text } : file(part)))
}

const audioFormats: { readonly [mediaType: string]: string } = {
  "audio/wav": "wav",
  "audio/x-wav": "wav",
  "audio/mpeg": "mp3",
  "audio/mp3": "mp3"
}

const file = (part: Prompt.FilePart): Json.JsonObject => {
  const source = Translation.sourceOf(part)
  const mediaType = Translation.mediaTypeOf(part)
  const url = source._tag === "Url" ? source.url : `data:${mediaType};base64,${source.data}`
  if (mediaType.startsWith("image/")) {
    const detail = Json.string(Json.object(part.options["openai"])["imageDetail"])
    return { type: "image_url", image_url: detail === undefined ? { url } : { url, detail } }
  }
  const format = audioFormats[mediaType]
  if (format !== undefined && source._tag === "Base64") {
    return { type: "input_audio", input_audio: { data: source.data, format } }
  }
  return { type: "file", file: { filename: part.fileName ?? "file", file_data: url } }
}

// Reasoning is left out: no signature makes it ours, and most servers refuse to have it back. So are tools that a provider ran
// itself, because only that provider knows them.
const assistantMessages = (parts: ReadonlyArray<Prompt.AssistantMessagePart>): ReadonlyArray<Json.JsonObject> => {
  const text = parts.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("")
  const calls = parts.flatMap((part) => (part.type === "tool-call" && !part.providerExecuted ? [toolCall(part)] : []))
  const results = parts.flatMap((part) =>
    part.type === "tool-result" && !part.providerExecuted ? [toolMessage(part)] : []
  )
  if (text === "" && calls.length === 0) return results
  return [
    {
      role: "assistant",
      content: text === "" ? null : text,
      ...(calls.length === 0 ? undefined : { tool_calls: calls })
    },
    ...results
  ]
}

// OpenAI answers 400 to an id of a tool call with more than 40 characters.
const maxIdLength = 40

const toolCall = (part: Prompt.ToolCallPart): Json.JsonObject => ({
  id: Translation.callId(part.id, maxIdLength),
  type: "function",
  function: {
    name: part.name,
    arguments: typeof part.params === "string" ? part.params : Translation.write(part.params ?? {})
  }
})

const toolMessage = (part: Prompt.ToolResultPart): Json.JsonObject => ({
  role: "tool",
  tool_call_id: Translation.callId(part.id, maxIdLength),
  content: Translation.resultText(part)
})

const toolFields = (request: LlmRequest.LlmRequest): Json.JsonObject => {
  const { tools, choice } = Translation.toolsOf(request)
  if (tools.length === 0) return {}
  return {
    tools: tools.map((tool) => ({ type: "function", function: functionOf(tool) })),
    tool_choice: typeof choice === "string" ? choice : { type: "function", function: { name: choice.tool } }
  }
}

// Strict mode is the caller's choice for each tool, and happens where the schema allows it.
const functionOf = (tool: Translation.FunctionTool): Json.JsonObject => {
  const strict = tool.strict === true ? JsonSchema.strict(tool.parameters) : undefined
  return {
    name: tool.name,
    ...(tool.description === undefined ? undefined : { description: tool.description }),
    parameters: strict ?? tool.parameters,
    ...(tool.strict === undefined ? undefined : { strict: strict !== undefined })
  }
}

const responseFormat = (format: LlmRequest.ResponseFormat): Json.JsonObject => {
  if (format.type === "text") return {}
  const schema = JsonSchema.ofSchema(format.schema)
  // A schema beyond the strict mode guides the model instead of being answered with 400, and the policies above check the answer.
  const strict = schema["type"] === "object" ? JsonSchema.strict(schema) : undefined
  return {
    response_format: {
      type: "json_schema",
      json_schema: {
        name: toolName(format.objectName),
        schema: strict ?? schema,
        strict: strict !== undefined
      }
    }
  }
}
