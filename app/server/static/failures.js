// Why a file was not read, in the language of the page. The server says it in English; what is not known here is shown as
// the server said it. Knows no view.

import { visible } from "./dom.js";

const ZH = new Map([
  ["the file is empty", "文件是空的"],
  ["remove it, or check how it was made", "请删除它，或检查它是如何生成的"],
  ["there is no text in it, only blanks", "其中没有文字，只有空白"],
  ["the PDF is encrypted", "PDF 已加密"],
  ["an encrypted Office file, which cannot be read here", "加密的 Office 文件，无法读取"],
  ["an old Word file (.doc), which cannot be read here", "旧版 Word 文件（.doc），无法读取"],
  ["an old Excel file (.xls), which cannot be read here", "旧版 Excel 文件（.xls），无法读取"],
  ["an old PowerPoint file (.ppt), which cannot be read here", "旧版 PowerPoint 文件（.ppt），无法读取"],
  ["the OpenDocument file is encrypted", "OpenDocument 文件已加密"],
  ["encrypted in the archive", "在压缩包中已加密"],
  ["pack it again without a password", "请不设密码重新打包"],
  ["save a copy without a password", "请另存一份不带密码的副本"],
  ["open it in a word processor and save it as DOCX", "请用文字处理软件打开，另存为 DOCX"],
  ["run OCR on it first, for example: ocrmypdf IN OUT", "请先做文字识别（OCR），例如：ocrmypdf IN OUT"],
  ["the file seems damaged: open it in a PDF viewer and print or save it as a new PDF", "文件似乎已损坏：请用 PDF 阅读器打开，打印或另存为新的 PDF"],
  ["the file seems damaged: save it again with the program that made it", "文件似乎已损坏：请用生成它的程序重新保存"],
  ["open it in a spreadsheet program and save it as XLSX", "请用电子表格软件打开，另存为 XLSX"],
  ["open it in a presentation program and save it as PPTX", "请用演示软件打开，另存为 PPTX"],
  ["convert it to Markdown, text, HTML, PDF or DOCX, or leave it out", "请转换为 Markdown、文本、HTML、PDF 或 DOCX，或不要收录它"],
  ["the archive seems damaged: pack it again", "压缩包似乎已损坏：请重新打包"],
  ["the file seems damaged: open it in the program that made it and save it again", "文件似乎已损坏：请用生成它的程序打开并重新保存"],
  ["the file seems damaged: open it in a spreadsheet program and save it again", "文件似乎已损坏：请用电子表格软件打开并重新保存"],
  ["if it is text, save it as UTF-8 (for example: iconv -f OLD_ENCODING -t UTF-8); else leave it out",
    "如果是文本，请存为 UTF-8（例如：iconv -f 原编码 -t UTF-8）；否则不要收录它"],
  ["leave it out, or describe it in a document", "请不要收录它，或在文档中描述其内容"],
  ["not a PDF, whatever its name says", "虽然名称如此，但它不是 PDF"],
  ["give the file the extension of what it is", "请改用与内容相符的扩展名"],
  ["binary content, not text in any encoding", "二进制内容，不是任何编码的文本"],
  ["there are no files in this archive", "压缩包中没有文件"],
  ["check how it was made", "请检查它是如何生成的"],
  ["split the PDF", "请拆分这个 PDF"], ["split the file", "请拆分这个文件"], ["split the table", "请拆分这个表格"], ["leave it out", "请不要收录它"],
]);
const PATTERNS = [
  [/^no text layer in its ([\d,]+) pages \(scanned\?\)$/, "{1} 页都没有文字层（可能是扫描件）"],
  [/^damaged PDF: (.*)$/s, "PDF 已损坏：{1}"],
  [/^a (JPEG|PNG|GIF|TIFF|BMP|WebP|HEIC|HEIF) picture, not a text document$/, "{1} 图片，不是文本文档"],
  [/^larger than (.*)$/s, "大于 {1}"],
  [/^binary content, and no parser for '(.*)' files$/s, "二进制内容，无法解析 {1} 文件"],
  [/^([\d,]+) pages, more than the ([\d,]+) allowed$/, "共 {1} 页，超过上限 {2} 页"],
];

export function inWords(app, text) {
  if (app.language !== "zh") return visible(text);
  if (ZH.has(text)) return ZH.get(text);
  for (const [pattern, said] of PATTERNS) {
    const found = pattern.exec(text);
    if (found) return said.replace(/\{(\d)\}/g, (_, at) => visible(found[at]));
  }
  return visible(text);
}
