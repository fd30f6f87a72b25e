import type * as LlmRequest from "@llm-resilience/core/LlmRequest"
import type * as Prompt from "effect/ai/Prompt"
import { answerToolDescription, toolName, type Writing } from "./adapter.ts"
import * as Json from "./json.ts"
import * as JsonSchema from "./jsonSchema.ts"
import * as Translation from "./prompt.ts"
import { systemTexts, type Turn, turns, type Writer } from "./turns.ts"

/** How the model is made to answer with JSON: see `Gemini.Options.structuredOutput`. */
export type StructuredOutput = "native" | "tool"

/** The tool through which a model answers with JSON. Models before the third generation take a schema or tools, not both. */
export const answerTool = (request: LlmRequest.LlmRequest, structured: StructuredOutput): string | undefined =>
  request.responseFormat.type === "json" && structured === "tool" && Translation.toolsOf(request).tools.length > 0
    ? toolName(request.responseFormat.objectName)
    : undefined

/** Writes a request as the body of generateContent. The model is in the address, and so is whether to stream. */
export const body = (
  request: LlmRequest.LlmRequest,
  options: Writing & { readonly structuredOutput: StructuredOutput; readonly wantsSignatures: boolean }
): Json.JsonObject => {
  const { settings } = options
  const system = systemTexts(request.prompt)
  const written = turns(request.prompt, writer)
  const format = request.responseFormat
  const answer = answerTool(request, options.structuredOutput)
  const generation = {
    ...(settings.maxOutputTokens === undefined ? undefined : { maxOutputTokens: settings.maxOutputTokens }),
    ...(settings.temperature === undefined ? undefined : { temperature: settings.temperature }),
    ...(settings.topP === undefined ? undefined : { topP: settings.topP }),
    ...(settings.stop === undefined || settings.stop.length === 0 ? undefined : { stopSequences: settings.stop }),
    ...(settings.seed === undefined ? undefined : { seed: settings.seed }),
    ...(format.type === "json" && answer === undefined
      ? { responseMimeType: "application/json", responseJsonSchema: JsonSchema.ofSchema(format.schema) }
      : undefined)
  }
  const { generationConfig, ...others } = Translation.providerOptions(settings, "gemini", options.provider)
  const config = { ...generation, ...Json.object(generationConfig) }
  return {
    ...(system.length === 0
      ? undefined
      : { systemInstruction: { parts: system.map(({ content }) => ({ text: content })) } }),
    contents: contents(written, options.wantsSignatures),
    ...(Object.keys(config).length === 0 ? undefined : { generationConfig: config }),
    ...toolFields(request, answer),
    ...others
  }
}

const contents = (written: ReadonlyArray<Turn>, wantsSignatures: boolean): ReadonlyArray<Json.JsonObject> =>
  written.map(({ content, role }) => {
    if (role === "user") return { role, parts: content }
    const first = content.findIndex((part) => part["functionCall"] !== undefined)
    const call = content[first]
    // A call that another model made has no signature. The API insists on one with the first call of a turn, and has a word for this.
    return wantsSignatures && call !== undefined && call["thoughtSignature"] === undefined
      ? { role: "model", parts: content.with(first, { ...call, thoughtSignature: "skip_thought_signature_validator" }) }
      : { role: "model", parts: content }
  })

const userPart = (part: Prompt.UserMessagePart): ReadonlyArray<Json.JsonObject> => {
  if (part.type === "file") return [file(part)]
  return part.text === "" ? [] : [{ text: part.text }]
}

const file = (part: Prompt.FilePart): Json.JsonObject => {
  const mimeType = Translation.mediaTypeOf(part)
  if (String(part.data).startsWith("gs://")) return { fileData: { mimeType, fileUri: String(part.data) } }
  const source = Translation.sourceOf(part)
  return source._tag === "Url"
    ? { fileData: { mimeType, fileUri: source.url } }
    : { inlineData: { mimeType, data: source.data } }
}

// Thoughts stay with the model that had them; their signatures go back where they came from, on the text or the call that they led to.
const writer: Writer = {
  user: userPart,
  text: (part) => {
    const signature = signatureOf(part)
    return part.text === "" && signature === undefined ? [] : [{ text: part.text, ...signature }]
  },
  file: (part) => [file(part)],
  call: (part) => [
    { functionCall: { name: part.name, args: Json.isObject(part.params) ? part.params : {} }, ...signatureOf(part) }
  ],
  result: (part) => {
    const text = Translation.resultText(part)
    return [{ functionResponse: { name: part.name, response: part.isFailure ? { error: text } : { output: text } } }]
  }
}

const signatureOf = (part: Prompt.TextPart | Prompt.ToolCallPart): Json.JsonObject | undefined => {
  const { thoughtSignature } = Json.object(part.options["gemini"])
  return typeof thoughtSignature === "string" ? { thoughtSignature } : undefined
}

const toolFields = (request: LlmRequest.LlmRequest, answer: string | undefined): Json.JsonObject => {
  const { choice, tools } = Translation.toolsOf(request)
  const written = tools.map(({ description, name, parameters }) => ({
    name,
    ...(description === undefined ? undefined : { description }),
    parametersJsonSchema: parameters
  }))
  if (answer !== undefined && request.responseFormat.type === "json") {
    const format = {
      name: answer,
      description: answerToolDescription,
      parametersJsonSchema: JsonSchema.ofSchema(request.responseFormat.schema)
    }
    const only = choice === "none" ? [answer] : typeof choice === "object" ? [choice.tool] : undefined
    return { tools: [{ functionDeclarations: [...written, format] }], toolConfig: calling("ANY", only) }
  }
  if (written.length === 0) return {}
  const config =
    typeof choice === "object"
      ? calling("ANY", [choice.tool])
      : calling(choice === "required" ? "ANY" : choice === "none" ? "NONE" : "AUTO", undefined)
  return { tools: [{ functionDeclarations: written }], toolConfig: config }
}

const calling = (mode: string, only: ReadonlyArray<string> | undefined): Json.JsonObject => ({
  functionCallingConfig: { mode, ...(only === undefined ? undefined : { allowedFunctionNames: only }) }
})
