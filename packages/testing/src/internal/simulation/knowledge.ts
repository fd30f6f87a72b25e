/**
 * What the models of a simulation know: to every question one answer, which says whom it is for and who wrote it. So an answer to somebody
 * else cannot hide, nor can a word that is missing or said twice.
 */
import type { LlmRequest } from "@llm-resilience/core/LlmRequest"
import type * as Prompt from "effect/ai/Prompt"
import * as Schema from "effect/Schema"
import { type Asked, nameOf, type Plan } from "./plan.ts"

/** What is asked for: a text, JSON, or a call of a tool. */
export type Wanted = "text" | "json" | "tool"

interface Question {
  readonly kind: string
  readonly question: string
  readonly wanted: Wanted
}

/** How somebody asks. The three ways are one question: the second is spelled in another way, the third is put in another way. */
export const promptOf = ({ kind, phrasing, question, wanted }: Asked): string => {
  const subject = `${kind} q${question}${wanted === "text" ? "" : ` ${wanted}`}`
  switch (phrasing) {
    case "plain":
      return `How do I sort ${subject} in Python?`
    case "spelled":
      return `How can I sort ${subject} in Python`
    case "turned":
      return `In Python, how do I sort ${subject}?`
  }
}

const read = (text: string): Question => {
  const [, kind = "", question = "", wanted] = /sort (\w+) (q\d+)(?: (json|tool))?/.exec(text) ?? []
  return { kind, question, wanted: wanted === "json" || wanted === "tool" ? wanted : "text" }
}

const questions = new WeakMap<Prompt.Message, Question>()
const nothing: Question = { kind: "", question: "", wanted: "text" }

/** What a request asks: its first message is the question, whatever was said since. */
export const questionOf = (request: LlmRequest): Question => {
  const message = request.prompt.content[0]
  if (message === undefined) return nothing
  const known = questions.get(message)
  if (known !== undefined) return known
  const part = typeof message.content === "string" ? undefined : message.content[0]
  const question = part?.type === "text" ? read(part.text) : nothing
  questions.set(message, question)
  return question
}

/** What a request is about, for whom. An answer begins with it. */
export const identityOf = (request: LlmRequest): string => {
  const { question, wanted } = questionOf(request)
  const tool = request.tools.length === 0 ? "" : request.tools.map(({ name }) => name).join("+")
  return `${question}.${request.scope ?? ""}.${tool}${wanted === "text" ? "" : `.${wanted}`}`
}

/** How many words an answer has: 3, 9 or 40, by what it is about. */
export const lengthOf = (identity: string): number => {
  let sum = 0
  for (let index = 0; index < identity.length; index++) sum += identity.charCodeAt(index)
  return [3, 9, 40][sum % 3] ?? 3
}

/** The schema of answers in JSON. */
export const Reply = Schema.Struct({ about: Schema.String, words: Schema.Array(Schema.String) })

/** Whether a text is the whole answer in JSON to a request. */
export const isReply = (text: string, identity: string): boolean => {
  try {
    const { about, words } = JSON.parse(text) as { readonly about?: unknown; readonly words?: ReadonlyArray<string> }
    const numbers = words?.map((word) => Number.parseInt(word, 10))
    return about === identity && numbers?.length === lengthOf(identity) && numbers.every((number, at) => number === at)
  } catch {
    return false
  }
}

/** An answer: its words, and all of them as one text. */
export interface Answer {
  readonly words: ReadonlyArray<string>
  readonly text: string
}

const answers = new Map<string, Answer>()

/** The answer, as a step knows it. What is no text is one word. */
export const answerOf = (plan: Plan, step: number, request: LlmRequest): Answer => {
  const identity = identityOf(request)
  const author = plan.sameAnswers ? "" : nameOf(step)
  const name = `${author} ${identity}`
  const known = answers.get(name)
  if (known !== undefined) return known
  const words = write(identity, questionOf(request).wanted, author)
  const answer = { words, text: words.join("") }
  answers.set(name, answer)
  return answer
}

const write = (identity: string, wanted: Wanted, author: string): ReadonlyArray<string> => {
  const length = lengthOf(identity)
  const numbered = Array.from({ length }, (_, index) => `${index}${author}`)
  switch (wanted) {
    case "text":
      return numbered.map((word, index) => (index === 0 ? identity : ` ${word}`))
    case "json":
      return numbered.map((word, index) => {
        const begin = index === 0 ? `{"about":"${identity}","words":[` : ", "
        return `${begin}"${word}"${index === length - 1 ? "]}" : ""}`
      })
    case "tool":
      return [identity]
  }
}

/**
 * What a step says to a request that brings the beginning of an answer: it goes on behind the last whole word. One that ignores the beginning
 * although it says otherwise can be told only by its words: where all know the same ones.
 */
export const continued = (plan: Plan, step: number, request: LlmRequest): ReadonlyArray<string> => {
  const { words } = answerOf(plan, step, request)
  const last = request.prompt.content.at(-1)
  const { prefill = "no" } = plan.steps[step] ?? {}
  if (prefill === "no" || (prefill === "ignored" && plan.sameAnswers) || last?.role !== "assistant") return words
  const part = typeof last.content === "string" ? undefined : last.content[0]
  return part?.type === "text" ? words.slice(part.text.split(" ").length) : words
}

export const isContinuation = (request: LlmRequest): boolean => request.prompt.content.at(-1)?.role === "assistant"
