import { assert, describe, it } from "@effect/vitest"
import { Refusal } from "@llm-resilience/core"
import { Schema } from "effect"

const refusals = [
  "I'm sorry, but I can't assist with that request.",
  "I’m sorry, but I can’t help with that.",
  "I'm sorry, I can't help with that",
  "Sorry, but I'm not able to help with that kind of request.",
  "I cannot fulfill this request. I am designed to be a helpful and harmless AI assistant.",
  "I can't help with this.\n\nIf you're struggling, please reach out to a professional.",
  "Unfortunately, I cannot provide assistance with that topic.",
  "As an AI language model, I cannot generate that kind of content.",
  "I apologize, but I'm unable to comply with your request.",
  "**I won't help with that.**",
  '"I must decline to answer this request."',
  `I can't help with that request.${"\n".repeat(500)}`,
  "Es tut mir leid, aber dabei kann ich nicht helfen.",
  "Leider kann ich diese Anfrage nicht beantworten.",
  "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
  "Lo siento, pero no puedo ayudarte con eso."
]

const answers = [
  "",
  "Sure, here is the poem.",
  "I can't help but notice that the second line is missing a comma.",
  "I'm sorry, but I can't find that file in the archive. Did you mean report.pdf?",
  "I'm sorry to hear that. Let us look at the logs together.",
  "I cannot help with this file because it is encrypted; send me the key.",
  "I can't do that without a branch name. Which one should I use?",
  "I'm unable to open the link. Please paste the text.",
  "I won't go into detail, but the short answer is 42.",
  "Sorry, I was wrong: the answer is 7.",
  "The sentence “I'm sorry, but I can't help with that.” is a refusal.",
  "As an AI language model, I have no birthday.",
  "Unfortunately, I cannot tell from the picture which year it is.",
  "Leider kann ich das Bild nicht öffnen.",
  "Dabei kann ich dir helfen.",
  "Je ne peux pas ouvrir ce fichier.",
  "No puedo abrir el archivo.",
  `I can't help with that.${" But here is what I can do for you, in all detail.".repeat(10)}`
]

describe("Refusal", () => {
  for (const text of refusals) {
    it(`recognises ${JSON.stringify(text.slice(0, 60))}`, () => {
      assert.isTrue(Refusal.is(text))
    })
  }

  for (const text of answers) {
    it(`takes ${JSON.stringify(text.slice(0, 60))} for an answer`, () => {
      assert.isFalse(Refusal.is(text))
    })
  }

  it("is undecided only while the text could still become a refusal", () => {
    const readUntilDecided = (text: string) =>
      Array.from(text).findIndex((_, index) => Refusal.begins(text.slice(0, index + 1)) !== "maybe") + 1

    assert.strictEqual(readUntilDecided("Sure, here is the poem."), 2)
    assert.strictEqual(readUntilDecided("The answer is 42."), 2)
    assert.strictEqual(readUntilDecided("I think so."), 3)
    assert.strictEqual(readUntilDecided("I can't find it."), 10)
  })

  it.prop(
    "never changes its mind when more text arrives",
    { text: Schema.Literals([...refusals, ...answers]) },
    ({ text }) => {
      const verdicts = Array.from(text).map((_, index) => Refusal.begins(text.slice(0, index + 1)))
      const decided = verdicts.find((verdict) => verdict !== "maybe")

      assert.isTrue(verdicts.every((verdict) => verdict === "maybe" || verdict === decided))
    }
  )
})
