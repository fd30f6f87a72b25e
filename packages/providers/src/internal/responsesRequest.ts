import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as Prompt from "effect/ai/Prompt"
import { toolName, type Writing } from "./adapter.ts"
import * as Json from "./json.ts"
import * as JsonSchema from "./jsonSchema.ts"
import * as Translation from "./prompt.ts"

/** Writes a request as the body of a response. */
export const body = (
  request: LlmRequest.LlmRequest,
  options: Writing & { readonly store: boolean }
): Json.JsonObject => {
  const { settings } = options
  return {
    model: options.model,
    input: Translation.withDistinctCalls(request.prompt).content.flatMap(items),
    store: options.store,
    ...(settings.maxOutputTokens === undefined ? undefined : { max_output_tokens: settings.maxOutputTokens }),
    ...(settings.temperature === undefined ? undefined : { temperature: settings.temperature }),
    ...(settings.topP === undefined ? undefined : { top_p: settings.topP }),
    ...toolFields(request),
    ...textFormat(request.responseFormat),
    ...Translation.providerOptions(settings, "openai-responses", options.provider),
    stream: options.stream
  }
}

const items = (message: Prompt.Message): ReadonlyArray<Json.JsonObject> => {
  switch (message.role) {
    case "system":
      return message.content.trim() === "" ? [] : [{ role: "system", content: message.content }]
    case "user":
      return [{ role: "user", content: message.content.map(userPart) }]
    case "assistant":
      return message.content.flatMap(assistantItem)
    case "tool":
      return message.content.flatMap((part) => (part.type === "tool-result" ? [resultItem(part)] : []))
  }
}

const userPart = (part: Prompt.UserMessagePart): Json.JsonObject => {
  if (part.type === "text") return { type: "input_text", text: part.text }
  const source = Translation.sourceOf(part)
  const mediaType = Translation.mediaTypeOf(part)
  const url = source._tag === "Url" ? source.url : `data:${mediaType};base64,${source.data}`
  if (mediaType.startsWith("image/")) {
    const detail = Json.string(Json.object(part.options["openai"])["imageDetail"])
    return { type: "input_image", image_url: url, detail: detail ?? "auto" }
  }
  return source._tag === "Url"
    ? { type: "input_file", file_url: url }
    : { type: "input_file", filename: part.fileName ?? "file", file_data: url }
}

// Reasoning is accepted back only in the form in which the API encrypted it. Tools that the provider ran itself are left out.
const assistantItem = (part: Prompt.AssistantMessagePart): ReadonlyArray<Json.JsonObject> => {
  switch (part.type) {
    case "text":
      return part.text === "" ? [] : [{ role: "assistant", content: [{ type: "output_text", text: part.text }] }]
    case "reasoning": {
      const { encryptedContent, itemId } = Json.object(part.options["openai-responses"])
      if (typeof encryptedContent !== "string") return []
      const summary = part.text === "" ? [] : [{ type: "summary_text", text: part.text }]
      return [
        {
          type: "reasoning",
          ...(typeof itemId === "string" ? { id: itemId } : undefined),
          summary,
          encrypted_content: encryptedContent
        }
      ]
    }
    case "tool-call":
      return part.providerExecuted
        ? []
        : [
            {
              type: "function_call",
              call_id: Translation.callId(part.id, maxIdLength),
              name: part.name,
              arguments: typeof part.params === "string" ? part.params : Translation.write(part.params ?? {})
            }
          ]
    case "tool-result":
      return part.providerExecuted ? [] : [resultItem(part)]
    default:
      return []
  }
}

const maxIdLength = 64

const resultItem = (part: Prompt.ToolResultPart): Json.JsonObject => ({
  type: "function_call_output",
  call_id: Translation.callId(part.id, maxIdLength),
  output: Translation.resultText(part)
})

const toolFields = (request: LlmRequest.LlmRequest): Json.JsonObject => {
  const { choice, tools } = Translation.toolsOf(request)
  if (tools.length === 0) return {}
  return {
    tools: tools.map((tool) => ({ type: "function", ...functionOf(tool) })),
    tool_choice: typeof choice === "string" ? choice : { type: "function", name: choice.tool }
  }
}

// Without the field the API tries strict mode on its own, and changes what the schema says.
const functionOf = (tool: Translation.FunctionTool): Json.JsonObject => {
  const strict = tool.strict === true ? JsonSchema.strict(tool.parameters) : undefined
  return {
    name: tool.name,
    ...(tool.description === undefined ? undefined : { description: tool.description }),
    parameters: strict ?? tool.parameters,
    strict: strict !== undefined
  }
}

const textFormat = (format: LlmRequest.ResponseFormat): Json.JsonObject => {
  if (format.type === "text") return {}
  const schema = JsonSchema.ofSchema(format.schema)
  const strict = schema["type"] === "object" ? JsonSchema.strict(schema) : undefined
  return {
    text: {
      format: {
        type: "json_schema",
        name: toolName(format.objectName),
        schema: strict ?? schema,
        strict: strict !== undefined
      }
    }
  }
}
